-- Goals: what the records of one rollout say last of its thread's goal (a thread's is the newest of its rollouts), and,
-- from the journal, which goals were deleted.

CREATE TABLE goals (
    stream            TEXT    NOT NULL PRIMARY KEY,
    goal_id           TEXT    NOT NULL,
    objective         TEXT    NOT NULL,
    status            TEXT    NOT NULL,
    token_budget      INTEGER,
    tokens_used       INTEGER NOT NULL,
    time_used_seconds INTEGER NOT NULL,
    created_at_ms     INTEGER NOT NULL,
    updated_at_ms     INTEGER NOT NULL,
    deferred          INTEGER NOT NULL,
    CONSTRAINT goals_deferred CHECK (deferred IN (0, 1))
) STRICT;

CREATE TABLE goal_deletions (
    thread_id     TEXT    NOT NULL,
    goal_id       TEXT    NOT NULL,
    deleted_at_ms INTEGER NOT NULL,
    CONSTRAINT goal_deletions_key PRIMARY KEY (thread_id, goal_id)
) STRICT, WITHOUT ROWID;
