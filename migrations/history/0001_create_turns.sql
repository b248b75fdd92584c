-- The index of turns and items: where they are in the rollouts, and what has to be known to choose among them.
-- What they say is read from the rollout. Offsets are of plain bytes and name the record's first one; times are Unix
-- milliseconds; turns are named by the 64-bit digest of their id. Keys are of the rollout's own, so that any cut of it
-- into pieces gives the same rows.

CREATE TABLE rollouts (
    number INTEGER NOT NULL PRIMARY KEY,
    path   TEXT    NOT NULL,
    CONSTRAINT rollouts_path UNIQUE (path)
) STRICT;

-- "offset" is of the record that began the turn, or ended it where its beginning is not in the rollout.
-- status: 0 open, 1 completed, 2 interrupted, 3 failed. What is open is shown as interrupted, unless a writer is at it.
-- first_user, final_agent and plain_agent are offsets of items: the last agent message with the phase of a final answer
-- (in legacy rollouts of any phase), and the last one without a phase.
CREATE TABLE turns (
    rollout         INTEGER NOT NULL,
    "offset"        INTEGER NOT NULL,
    turn            INTEGER NOT NULL,
    id              TEXT    NOT NULL,
    ordinal         INTEGER,
    status          INTEGER NOT NULL,
    end_offset      INTEGER,
    started_at_ms   INTEGER,
    completed_at_ms INTEGER,
    duration_ms     INTEGER,
    error_offset    INTEGER,
    error_length    INTEGER,
    first_user      INTEGER,
    final_agent     INTEGER,
    plain_agent     INTEGER,
    CONSTRAINT turns_key PRIMARY KEY (rollout, "offset"),
    CONSTRAINT turns_status CHECK (status BETWEEN 0 AND 3),
    CONSTRAINT turns_error CHECK ((error_offset IS NULL) = (error_length IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX turns_by_turn ON turns (rollout, turn);

-- "offset" and length are of the record that an item is first told by, last_* of the newest that tells of it again.
-- turn is NULL where it is the turn whose row stands before the item. number is of an item that has no id of its own.
CREATE TABLE items (
    rollout       INTEGER NOT NULL,
    "offset"      INTEGER NOT NULL,
    length        INTEGER NOT NULL,
    type          INTEGER NOT NULL,
    ordinal       INTEGER,
    created_at_ms INTEGER,
    turn          INTEGER,
    number        INTEGER,
    last_offset   INTEGER,
    last_length   INTEGER,
    CONSTRAINT items_key PRIMARY KEY (rollout, "offset"),
    CONSTRAINT items_last CHECK ((last_offset IS NULL) = (last_length IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX items_by_turn ON items (rollout, turn, "offset") WHERE turn IS NOT NULL;

-- The further records of an item that several tell of one after the other (reasoning in legacy rollouts).
CREATE TABLE parts (
    rollout  INTEGER NOT NULL,
    item     INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    length   INTEGER NOT NULL,
    CONSTRAINT parts_key PRIMARY KEY (rollout, item, "offset")
) STRICT, WITHOUT ROWID;

-- Where a legacy rollout takes its last turns back, and how many items were left: numbers go on from there.
CREATE TABLE rollbacks (
    rollout  INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    items    INTEGER NOT NULL,
    CONSTRAINT rollbacks_key PRIMARY KEY (rollout, "offset")
) STRICT, WITHOUT ROWID;
