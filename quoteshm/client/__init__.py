"""Floor 3: clients of the wire."""
