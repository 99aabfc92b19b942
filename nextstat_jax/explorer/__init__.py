"""A page that draws the contours of a surrogate's likelihood as sliders move.

Run it by ``python -m nextstat_jax.explorer surrogate.npz``; it needs the extra ``explorer``. Nothing here is
imported by the rest of the package.
"""
