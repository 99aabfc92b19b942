"""Questions about a model: fits, tests, limits, scans, intervals, impacts, yields, goodness; stacks of models.

It must not know: pseudo-experiments, networks, pictures, other people's tools.
"""
