"""What was learned in threads, kept across threads: extraction, consolidation, and the folder of memories."""
