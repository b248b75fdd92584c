-- The index of what was said: which words are in which message, and where the message stands in its rollout. The words are
-- kept without their text, which is read from the rollout. Offsets are of plain bytes; times are Unix milliseconds; turns
-- are named by the 64-bit digest of their id. Numbers and ids are the file's own.

-- shown_end is the byte before which a thread shows what its rollout says: behind everything for the thread's head, the
-- place where the head goes on for what a revert left behind, 0 for what the thread shows nothing of.
CREATE TABLE rollouts (
    number          INTEGER NOT NULL PRIMARY KEY,
    shown_end       INTEGER NOT NULL,
    path            TEXT    NOT NULL,
    thread_id       TEXT    NOT NULL,
    rollout_id      TEXT    NOT NULL,
    base_rollout_id TEXT,
    base_end        INTEGER,
    archived        INTEGER NOT NULL,
    CONSTRAINT rollouts_path UNIQUE (path),
    CONSTRAINT rollouts_archived CHECK (archived IN (0, 1))
) STRICT;

CREATE INDEX rollouts_by_thread ON rollouts (thread_id);

-- "offset" is of the record that a message is first told by; said_offset and length are of the newest that tells of it.
-- role: 1 user, 2 agent. turn is NULL where the record names it, or it is the one whose row stands before the message.
CREATE TABLE texts (
    id            INTEGER NOT NULL PRIMARY KEY,
    rollout       INTEGER NOT NULL,
    "offset"      INTEGER NOT NULL,
    said_offset   INTEGER NOT NULL,
    length        INTEGER NOT NULL,
    role          INTEGER NOT NULL,
    ordinal       INTEGER,
    created_at_ms INTEGER,
    turn          INTEGER,
    CONSTRAINT texts_place UNIQUE (rollout, "offset"),
    CONSTRAINT texts_role CHECK (role IN (1, 2))
) STRICT;

-- The turns of legacy rollouts, whose records do not name their turn: for a message's turn, and for what a rollback takes.
CREATE TABLE turns (
    rollout  INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    turn     INTEGER NOT NULL,
    id       TEXT    NOT NULL,
    CONSTRAINT turns_key PRIMARY KEY (rollout, "offset")
) STRICT, WITHOUT ROWID;

-- The names that users gave threads, by the digest of the name; ids are below 0, those of texts above.
CREATE TABLE names (
    thread_id   TEXT    NOT NULL PRIMARY KEY,
    id          INTEGER NOT NULL,
    name        INTEGER NOT NULL,
    named_at_ms INTEGER NOT NULL,
    CONSTRAINT names_id UNIQUE (id),
    CONSTRAINT names_below CHECK (id < 0)
) STRICT, WITHOUT ROWID;

-- How far the names were followed, as the tables of facts say it; no row where that does not count any more.
CREATE TABLE names_followed (
    one  INTEGER NOT NULL PRIMARY KEY,
    mark BLOB    NOT NULL,
    CONSTRAINT names_followed_one CHECK (one = 1)
) STRICT;

CREATE VIRTUAL TABLE words USING fts5 (
    text, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 2'
);

CREATE TRIGGER texts_forgotten AFTER DELETE ON texts BEGIN
    DELETE FROM words WHERE rowid = OLD.id;
END;

CREATE TRIGGER names_forgotten AFTER DELETE ON names BEGIN
    DELETE FROM words WHERE rowid = OLD.id;
END;
