"""Tests of quoteshm.market."""
