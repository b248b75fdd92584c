-- The threads projection and what every projection of state_1 shares. All of it is derived from the rollouts.
-- Times are Unix milliseconds, paths are relative to the home with '/' between names.
-- Tables with wide rows have rowids: without them a row over a quarter of a page would take an overflow page each.

CREATE TABLE streams (
    path            TEXT    NOT NULL PRIMARY KEY,
    thread_id       TEXT    NOT NULL,
    rollout_id      TEXT    NOT NULL,
    base_rollout_id TEXT,
    named_at        TEXT    NOT NULL,
    archived        INTEGER NOT NULL,
    compressed      INTEGER NOT NULL,
    records         INTEGER NOT NULL,
    damaged         INTEGER NOT NULL,
    missing_since_ms INTEGER,
    CONSTRAINT streams_flags CHECK (archived IN (0, 1) AND compressed IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE INDEX streams_by_thread ON streams (thread_id);
CREATE INDEX streams_by_rollout ON streams (rollout_id) WHERE rollout_id <> thread_id;

CREATE TABLE watermarks (
    stream     TEXT    NOT NULL,
    projection TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    "offset"   INTEGER NOT NULL,
    ordinal    INTEGER,
    chain      BLOB    NOT NULL,
    tail       BLOB    NOT NULL,
    device     INTEGER NOT NULL,
    inode      INTEGER NOT NULL,
    size       INTEGER NOT NULL,
    mtime_ns   INTEGER NOT NULL,
    ctime_ns   INTEGER NOT NULL,
    state      BLOB    NOT NULL,
    CONSTRAINT watermarks_key PRIMARY KEY (stream, projection)
) STRICT;

CREATE TABLE threads (
    id                 TEXT    NOT NULL PRIMARY KEY,
    rollout_path       TEXT    NOT NULL,
    rollout_id         TEXT    NOT NULL,
    session_id         TEXT,
    created_at_ms      INTEGER NOT NULL,
    updated_at_ms      INTEGER NOT NULL,
    recency_at_ms      INTEGER NOT NULL,
    source             TEXT    NOT NULL,
    thread_source      TEXT,
    originator         TEXT,
    history_mode       TEXT    NOT NULL,
    forked_from_id     TEXT,
    parent_thread_id   TEXT,
    agent_nickname     TEXT,
    agent_role         TEXT,
    agent_path         TEXT,
    model_provider     TEXT,
    model              TEXT,
    reasoning_effort   TEXT,
    cwd                TEXT,
    cli_version        TEXT,
    title              TEXT,
    preview            TEXT,
    first_user_message TEXT,
    sandbox_policy     TEXT    NOT NULL,
    approval_mode      TEXT    NOT NULL,
    tokens_used        INTEGER NOT NULL,
    memory_mode        TEXT    NOT NULL,
    memory_mode_at_ms  INTEGER,
    git_sha            TEXT,
    git_branch         TEXT,
    git_origin_url     TEXT,
    archived           INTEGER NOT NULL,
    CONSTRAINT threads_archived CHECK (archived IN (0, 1))
) STRICT;

CREATE INDEX threads_by_created ON threads (created_at_ms DESC, id DESC);
CREATE INDEX threads_by_updated ON threads (updated_at_ms DESC, id DESC);
CREATE INDEX threads_by_recency ON threads (recency_at_ms DESC, id DESC);

CREATE TABLE set_aside (
    stream     TEXT    NOT NULL,
    projection TEXT    NOT NULL,
    "offset"   INTEGER NOT NULL,
    length     INTEGER NOT NULL,
    kind       TEXT,
    reason     TEXT    NOT NULL,
    bytes      BLOB    NOT NULL,
    CONSTRAINT set_aside_key PRIMARY KEY (stream, projection, "offset")
) STRICT;

CREATE TABLE divergences (
    id        INTEGER NOT NULL PRIMARY KEY,
    at_ms     INTEGER NOT NULL,
    stream    TEXT    NOT NULL,
    thread_id TEXT    NOT NULL,
    class     TEXT    NOT NULL,
    detail    TEXT    NOT NULL
) STRICT;

CREATE TABLE failures (
    path         TEXT    NOT NULL PRIMARY KEY,
    reason       TEXT    NOT NULL,
    attempts     INTEGER NOT NULL,
    first_at_ms  INTEGER NOT NULL,
    last_at_ms   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE backfill (
    id                 INTEGER NOT NULL PRIMARY KEY,
    status             TEXT    NOT NULL,
    last_watermark     TEXT,
    last_success_at_ms INTEGER,
    updated_at_ms      INTEGER NOT NULL,
    files_done         INTEGER NOT NULL,
    files_total        INTEGER NOT NULL,
    bytes_done         INTEGER NOT NULL,
    bytes_total        INTEGER NOT NULL,
    CONSTRAINT backfill_singleton CHECK (id = 1),
    CONSTRAINT backfill_status CHECK (status IN ('pending', 'running', 'complete'))
) STRICT;

INSERT INTO backfill (id, status, updated_at_ms, files_done, files_total, bytes_done, bytes_total)
VALUES (1, 'pending', 0, 0, 0, 0, 0);

CREATE TABLE fences (
    name       TEXT    NOT NULL PRIMARY KEY,
    generation INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
