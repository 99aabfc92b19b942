"""Threads of the linear algebra that XLA calls on a CPU."""

from __future__ import annotations

import os
from functools import cache

# Read by OpenBLAS itself and by its relatives: whoever sets one has decided.
_CHOICES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NEXTSTAT_JAX_LAPACK_THREADS")


@cache
def limit_lapack_threads() -> None:
    """Has SciPy's LAPACK, which JAX uses for factorizations on a CPU, run on one thread.

    Its threads wait for work by spinning. Next to XLA's own they fight for the cores, and a fit of 200 parameters that
    takes 10 ms takes up to a second. Matrices of this size gain nothing from a second thread. Called once, when the
    first model is made; NumPy's own library is left alone, and so is everything if one of the usual environment
    variables (or ``NEXTSTAT_JAX_LAPACK_THREADS``, a number) is set.
    """
    chosen = os.environ.get("NEXTSTAT_JAX_LAPACK_THREADS", "")
    if not chosen.isdigit() and any(name in os.environ for name in _CHOICES):
        return
    import scipy.linalg.cython_lapack  # loads the library that is to be limited  # noqa: F401
    import threadpoolctl

    for library in threadpoolctl.ThreadpoolController().lib_controllers:
        if library.user_api == "blas" and "scipy" in (library.filepath or ""):
            library.set_num_threads(int(chosen or 1))
