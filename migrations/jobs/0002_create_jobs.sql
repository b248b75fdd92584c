-- Jobs: work on one thing each (a thread, or the whole home), claimed one by one, with what came of the last try.
-- Times are milliseconds since boot and mean something only together with a boot_id, but for finished_at_ms (Unix).
-- `attempts` counts claims of this watermark, whatever became of them; a success sets it to 0.

CREATE TABLE jobs (
    kind              TEXT    NOT NULL,
    job_key           TEXT    NOT NULL,
    status            TEXT    NOT NULL,
    generation        INTEGER NOT NULL,
    token             TEXT,
    host              TEXT    NOT NULL,
    boot_id           TEXT    NOT NULL,
    pid               INTEGER NOT NULL,
    started           TEXT    NOT NULL,
    progress          TEXT    NOT NULL,
    attempts          INTEGER NOT NULL,
    input_watermark   INTEGER NOT NULL,
    success_watermark INTEGER,
    expires_boot_ms   INTEGER,
    retry_boot_ms     INTEGER,
    finished_at_ms    INTEGER,
    last_error        TEXT,
    CONSTRAINT jobs_key PRIMARY KEY (kind, job_key),
    CONSTRAINT jobs_status CHECK (status IN ('running', 'done', 'failed', 'released')),
    CONSTRAINT jobs_running CHECK ((status = 'running') = (token IS NOT NULL AND expires_boot_ms IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX jobs_by_status ON jobs (kind, status);
