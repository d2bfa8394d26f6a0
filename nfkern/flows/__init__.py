"""The flows: modules, their distribution, and what they share."""
