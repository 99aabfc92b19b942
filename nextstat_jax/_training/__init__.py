"""Training on a statistical test in JAX: soft histograms, bin edges, sessions, losses.

It must not know: torch, optimizers, pictures.
"""
