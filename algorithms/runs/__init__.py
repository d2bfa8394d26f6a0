"""A run's folder: settings, checkpoints, logs and evaluations."""
