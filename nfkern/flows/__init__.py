"""Flows: the modules and their distribution."""
