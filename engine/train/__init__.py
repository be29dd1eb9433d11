"""Training: data, losses, optimiser, one command per stage."""
