-- Removals that were announced in the journal and are not done yet: a start finishes them.

ALTER TABLE facts ADD COLUMN erase_pending INTEGER NOT NULL DEFAULT 0;
ALTER TABLE facts ADD COLUMN erase_due_ms INTEGER;
ALTER TABLE facts ADD COLUMN redaction TEXT;

CREATE INDEX facts_erasing ON facts (thread_id) WHERE erase_pending = 1;
CREATE INDEX facts_redacting ON facts (thread_id) WHERE redaction IS NOT NULL;
CREATE INDEX facts_erased ON facts (thread_id) WHERE erased_at_ms IS NOT NULL;
