"""Agents that imitate demonstrations, with and without goals."""
