"""Campaigns: long runs that try to break a promise."""
