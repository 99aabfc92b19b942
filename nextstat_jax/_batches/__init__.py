"""Long jobs: chunks, schedules, threads, executors, and one function over many rows.

It must not know: statistics. A job is a pure function of its number.
"""
