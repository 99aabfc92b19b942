"""Minima of smooth functions in a box: the minimizer, its linear algebra, statuses, derivatives of minima by jaxopt.

It must not know: physics. No bins, no samples, no test statistics; a problem is a few functions of a point.
"""
