"""What is computed, and the eager definitions that results are held against."""
