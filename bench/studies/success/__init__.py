"""Success of policies in the simulator after equally many gradient steps, with the costs of training and acting."""
