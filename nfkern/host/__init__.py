"""What programs share with the machine that they run on: files, signals, progress."""
