"""A demonstration: fit a workspace, then train a network on the significance that it will reach.

Run it with ``make demo`` or ``python -m nextstat_jax.demo``.
"""
