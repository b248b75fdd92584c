-- What was decided about threads from outside (from the journal), and the names that the Codex CLI keeps in
-- session_index.jsonl. One stream a column: where both speak of a name there are two columns.

CREATE TABLE facts (
    thread_id         TEXT    NOT NULL PRIMARY KEY,
    name              TEXT,
    name_at_ms        INTEGER,
    memory_mode       TEXT,
    memory_mode_at_ms INTEGER,
    archived          INTEGER,
    archived_at_ms    INTEGER,
    archive_pending   INTEGER NOT NULL DEFAULT 0,
    dismissed_at_ms   INTEGER,
    erased_at_ms      INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX facts_pending ON facts (thread_id) WHERE archive_pending = 1;

CREATE TABLE index_names (
    thread_id  TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    name_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How far the two streams were followed, file by file (msgpack of name and watermark).
CREATE TABLE fact_streams (
    stream   TEXT NOT NULL PRIMARY KEY,
    followed BLOB NOT NULL,
    CONSTRAINT fact_streams_stream CHECK (stream IN ('journal', 'session_index'))
) STRICT, WITHOUT ROWID;
