-- Where log records are in the segments, and what they can be found by. All of it is derived from the segments, which hold the
-- texts; numbers stand for what rows share, so that a row and its place in the one index are some 50 bytes.

CREATE TABLE filled (
    id       INTEGER NOT NULL PRIMARY KEY,
    last_id  INTEGER NOT NULL, -- of logs: none is ever given again, also where the newest rows were removed
    cleanups INTEGER NOT NULL, -- of sites: numbers that a process remembers from before one may be gone
    bounds   TEXT    NOT NULL, -- which records get and keep rows, as JSON; '' while nobody asked for other than the usual
    CONSTRAINT filled_one CHECK (id = 1)
) STRICT;

INSERT INTO filled (id, last_id, cleanups, bounds) VALUES (1, 0, 0, '');

-- How far each segment was followed. Paths are relative to the state folder.
CREATE TABLE segments (
    number   INTEGER NOT NULL PRIMARY KEY,
    path     TEXT    NOT NULL,
    process  TEXT    NOT NULL,
    device   INTEGER NOT NULL,
    inode    INTEGER NOT NULL,
    "offset" INTEGER NOT NULL,
    first_id INTEGER,          -- of its rows, as are all between it and last_id that name it
    last_id  INTEGER,
    records  INTEGER NOT NULL,
    dropped  INTEGER NOT NULL, -- records that did not come into it, as it says itself
    damaged  INTEGER NOT NULL, -- lines that are none
    CONSTRAINT segments_path UNIQUE (path)
) STRICT;

CREATE TABLE sites (
    number   INTEGER NOT NULL PRIMARY KEY,
    severity INTEGER NOT NULL,
    level    TEXT    NOT NULL,
    target   TEXT    NOT NULL,
    module   TEXT    NOT NULL, -- '' where there is none, and so with file; line 0
    file     TEXT    NOT NULL,
    line     INTEGER NOT NULL,
    CONSTRAINT sites_place UNIQUE (target, file, line, level, severity, module)
) STRICT;

-- What the bounds on rows are for: the records of one thread, or those of one process that belong to none.
CREATE TABLE partitions (
    number  INTEGER NOT NULL PRIMARY KEY,
    thread  TEXT    NOT NULL, -- '' where it is a process's
    process TEXT    NOT NULL, -- '' where it is a thread's
    rows    INTEGER NOT NULL,
    bytes   INTEGER NOT NULL,
    CONSTRAINT partitions_name UNIQUE (thread, process)
) STRICT;

-- `id` is the time of the record in microseconds, or the number behind the last where that is higher; `delay` is the difference.
CREATE TABLE logs (
    id        INTEGER NOT NULL PRIMARY KEY,
    segment   INTEGER NOT NULL,
    "offset"  INTEGER NOT NULL,
    delay     INTEGER NOT NULL,
    site      INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    bytes     INTEGER NOT NULL
) STRICT;

CREATE INDEX logs_by_partition ON logs (partition);
