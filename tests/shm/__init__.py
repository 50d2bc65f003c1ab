"""Tests of the segment."""
