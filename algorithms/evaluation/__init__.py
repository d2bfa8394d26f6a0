"""Measuring policies in environments: rollouts, results, statistics, films."""
