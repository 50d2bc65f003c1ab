"""The page, and what is beside it."""
