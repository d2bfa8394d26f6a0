"""Agents: their settings, networks and losses, and how they act."""
