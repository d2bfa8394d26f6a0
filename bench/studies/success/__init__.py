"""What policies of as many gradient steps reach in the simulator, what they cost to train, and what an action costs."""
