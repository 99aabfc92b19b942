"""What everything stands on: errors, tables, threads.

It must not know: anything else of this package, what a likelihood or a workspace is, who calls it.
"""
