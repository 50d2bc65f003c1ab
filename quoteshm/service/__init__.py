"""Floor 5: the daemon."""
