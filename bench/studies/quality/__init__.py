"""How well policies fit known conditional densities of actions, and what an action then costs."""
