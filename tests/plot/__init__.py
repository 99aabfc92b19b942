"""Tests of ``nextstat_jax.plot``."""
