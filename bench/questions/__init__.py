"""What is asked, a module a question: each has a `run` that adds what it finds."""
