"""Floor 2: where bars come from."""
