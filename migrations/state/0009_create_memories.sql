-- What was learned in threads, from the journal: how each extraction ended, its texts, how often they were used, and the
-- last consolidation. Rows with texts have rowids, as those of threads do.

CREATE TABLE memory_outcomes (
    thread_id            TEXT    NOT NULL PRIMARY KEY,
    generation           INTEGER NOT NULL,
    outcome              TEXT    NOT NULL,
    source_updated_at_ms INTEGER NOT NULL,
    at_ms                INTEGER NOT NULL,
    reason               TEXT
) STRICT;

-- `generation` 0 is a row that was only pruned; texts are NULL where there is no output, or none any more.
CREATE TABLE memory_outputs (
    thread_id            TEXT    NOT NULL PRIMARY KEY,
    generation           INTEGER NOT NULL,
    pruned_generation    INTEGER NOT NULL,
    source_updated_at_ms INTEGER NOT NULL,
    generated_at_ms      INTEGER NOT NULL,
    raw_memory           TEXT,
    rollout_summary      TEXT,
    rollout_slug         TEXT
) STRICT;

CREATE INDEX memory_outputs_by_source ON memory_outputs (source_updated_at_ms DESC, thread_id DESC)
WHERE raw_memory IS NOT NULL;

CREATE TABLE memory_usage (
    thread_id     TEXT    NOT NULL PRIMARY KEY,
    usage_count   INTEGER NOT NULL,
    last_usage_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row: the last reset, the last consolidation, and the last one that succeeded with what it was made of.
CREATE TABLE memory_state (
    id                  INTEGER NOT NULL PRIMARY KEY,
    reset_generation    INTEGER NOT NULL DEFAULT 0,
    generation          INTEGER NOT NULL DEFAULT 0,
    outcome             TEXT,
    at_ms               INTEGER,
    reason              TEXT,
    success_generation  INTEGER NOT NULL DEFAULT 0,
    succeeded_at_ms     INTEGER,
    success_watermark   INTEGER NOT NULL DEFAULT 0,
    selected            TEXT    NOT NULL DEFAULT '[]',
    threads_max         INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT memory_state_singleton CHECK (id = 1)
) STRICT;
