-- A rebuild that was begun and has not come to its end: when it was begun. What it still has to fold are the watermarks of
-- version 0, which no projection has.

ALTER TABLE backfill ADD COLUMN rebuild_begun_at_ms INTEGER;
