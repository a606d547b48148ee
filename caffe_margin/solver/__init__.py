"""What a solver says: its learning rates, its updates, lambda over its run."""
