"""What a line of a rollout means: pure functions and values, no I/O, no clock."""
