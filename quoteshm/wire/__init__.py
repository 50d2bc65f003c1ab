"""Floor 3: NDJSON over TCP."""
