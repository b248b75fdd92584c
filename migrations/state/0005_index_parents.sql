-- Children of a thread, for lists by parent or ancestor.

CREATE INDEX threads_by_parent ON threads (parent_thread_id) WHERE parent_thread_id IS NOT NULL;
