"""What a net says without being run."""
