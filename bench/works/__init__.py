"""What is timed of each problem."""
