"""Files, signals and progress bars."""
