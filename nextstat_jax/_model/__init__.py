"""From records to arrays, once: the modifier types, the compile step, templates, and the model with its names.

It must not know: fits, tests, toys. Everything that is asked of a model stands further down.
"""
