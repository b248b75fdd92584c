-- What every side database has beside the tables of its projections: how far each stream was followed, what of it was set
-- aside, and which streams could not be folded. All of it is derived from the rollouts. Paths are relative to the home.

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

CREATE TABLE failures (
    path         TEXT    NOT NULL PRIMARY KEY,
    reason       TEXT    NOT NULL,
    attempts     INTEGER NOT NULL,
    first_at_ms  INTEGER NOT NULL,
    last_at_ms   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
