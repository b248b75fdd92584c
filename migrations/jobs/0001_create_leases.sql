-- Leases: who works on what. The one database that is not derived, and worth nothing after a power cut.
-- Times are milliseconds since boot (CLOCK_BOOTTIME) and mean something only together with boot_id.
-- A released lease keeps its row, so that its generation goes on rising; it has no owner (host is NULL).

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
    attempts        INTEGER NOT NULL,
    CONSTRAINT leases_owner CHECK (
        (host IS NULL) = (boot_id IS NULL)
        AND (host IS NULL) = (pid IS NULL)
        AND (host IS NULL) = (started IS NULL)
        AND (host IS NULL) = (purpose IS NULL)
        AND (host IS NULL) = (progress IS NULL)
        AND (host IS NULL) = (claimed_boot_ms IS NULL)
        AND (host IS NULL) = (expires_boot_ms IS NULL)
    )
) STRICT, WITHOUT ROWID;
