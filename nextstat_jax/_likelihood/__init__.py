"""Likelihoods as pure functions of arrays: index tables, rates, deviance, derivatives, constraints, throwing.

It must not know: JSON, names of channels and parameters, what is asked of a likelihood.
"""
