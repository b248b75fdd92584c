-- The agent graph, as far as it was decided from outside (from the journal): whether an agent is open or closed, and
-- whose it is where that was set. Whose it was spawned as is in `threads`, from its own rollout.

CREATE TABLE agents (
    thread_id        TEXT    NOT NULL PRIMARY KEY,
    status           TEXT,
    status_at_ms     INTEGER,
    parent_thread_id TEXT,
    parent_at_ms     INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX agents_by_parent ON agents (parent_thread_id) WHERE parent_thread_id IS NOT NULL;
