"""Floor 2: what is published."""
