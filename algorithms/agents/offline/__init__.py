"""Agents of offline RL, which learn from rewards."""
