"""Agents of goal-conditioned RL, which learn in an environment."""
