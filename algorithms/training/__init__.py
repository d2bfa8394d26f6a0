"""Training loops, offline and online."""
