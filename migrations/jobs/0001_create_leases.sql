-- Leases: who works on what. The one database that is not derived, and worth nothing after a power cut.
-- Times are milliseconds since boot (CLOCK_BOOTTIME) and mean something only together with boot_id.

CREATE TABLE leases (
    name            TEXT    NOT NULL PRIMARY KEY,
    generation      INTEGER NOT NULL,
    host            TEXT,
    boot_id         TEXT,
    pid             INTEGER,
    started         TEXT,
    purpose         TEXT,
    progress        TEXT,
    claimed_boot_ms INTEGER,
    expires_boot_ms INTEGER,
    attempts        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
