"""Offline RL from rewards."""
