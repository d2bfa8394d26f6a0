"""Goal-conditioned RL in an environment."""
