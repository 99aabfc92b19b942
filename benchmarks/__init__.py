"""Benchmarks: ``python -m benchmarks`` measures this package and its peers in one run and prints one table.

Nothing is imported here: the workers of peers run in interpreters that may lack every dependency of this package.
"""
