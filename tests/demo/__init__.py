"""Tests of ``nextstat_jax.demo``."""
