"""Tests of ``nextstat_jax.interpret``."""
