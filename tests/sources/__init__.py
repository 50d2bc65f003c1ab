"""Tests of quoteshm.sources."""
