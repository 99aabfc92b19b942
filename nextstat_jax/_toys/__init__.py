"""Pseudo-experiments: throwing, fitting and testing them, and ``hypotest``, which takes both kinds of distributions.

It must not know: networks, pictures, other people's tools.
"""
