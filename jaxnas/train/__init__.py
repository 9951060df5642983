"""Training: the loop, losses, the derived network."""
