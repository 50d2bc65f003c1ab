"""The programs of utils/."""
