"""Tests, a folder for each of the package's."""
