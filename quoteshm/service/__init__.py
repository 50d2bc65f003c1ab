"""Floor 4: the daemon."""
