"""The agents: networks, losses and how each acts."""
