"""Goal-conditioned offline RL."""
