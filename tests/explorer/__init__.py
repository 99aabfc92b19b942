"""Tests of ``nextstat_jax.explorer``."""
