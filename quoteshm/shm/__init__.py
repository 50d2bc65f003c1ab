"""Floor 1: the shared-memory segment, its writer and its readers."""
