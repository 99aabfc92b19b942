"""Tests of pseudo-experiments."""
