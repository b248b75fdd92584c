-- The newest threads of one folder, which is what most lists of an agent's program ask for.

CREATE INDEX threads_by_folder ON threads (cwd, updated_at_ms DESC, id DESC);
