"""Floor 4: clients of the wire."""
