"""Pseudo-experiments: throwing, fitting and testing them, and ``hypotest``, which takes both kinds of distributions.

It must not know: how fits are made, networks, pictures, other people's tools.
"""
