"""Agents of goal-conditioned offline RL."""
