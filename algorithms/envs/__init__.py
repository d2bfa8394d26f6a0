"""Environments: mazes, OGBench's tasks and imitation tasks, made reproducible."""
