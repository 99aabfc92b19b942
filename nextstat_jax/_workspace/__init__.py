"""JSON in, checked records out: workspaces, patches, patch sets, and errors that name the place.

It must not know: arrays, JAX, likelihoods, what happens to a record afterwards.
"""
