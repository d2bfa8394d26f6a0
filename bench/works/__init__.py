"""The works: calls that are timed on each problem."""
