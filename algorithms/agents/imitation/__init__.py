"""Imitation of demonstrations, with and without goals."""
