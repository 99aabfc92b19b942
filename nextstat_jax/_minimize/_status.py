"""How a minimization ended: a code that survives jit and vmap, and a sentence for people."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._base._numerics import lightly

CONVERGED = 0
RUNNING = 1
STEP_LIMIT = 2
STALLED = 3
INVALID = 4
INCONSISTENT = 5
NO_ROOT = 6
ON_BOUND = 7
STRANDED = 8

_MESSAGES = {
    CONVERGED: "converged",
    RUNNING: "not finished: the minimizer was interrupted",
    STEP_LIMIT: "not converged: the step limit was reached; start nearer to the minimum or fix parameters that the "
    "data do not constrain",
    STALLED: "not converged: no step lowers the objective although its gradient is not zero; the minimum may lie on a "
    "kink of the interpolation (code0, code1 and code2 have them) or next to a negative rate",
    INVALID: "no valid point: the likelihood is 0 at the start and wherever the fit went from there; give another "
    "start",
    INCONSISTENT: "not reliable: a conditional fit lies below the unconditional one, which has therefore missed the "
    "minimum; start it elsewhere with init",
    NO_ROOT: "there is none: the curve does not reach the level, however far the parameter goes",
    ON_BOUND: "ends on a bound of the parameter: the curve does not reach the level inside",
    STRANDED: "not converged: it ended where clipping leaves the likelihood without a slope; start it elsewhere with "
    "init, or build the model without clip_sample_data and clip_bin_data",
}


def is_one(code: Any, *wanted: int) -> Any:
    """Whether a status code is one of some, element by element."""
    return lightly(lambda xp, codes: xp.isin(codes, xp.asarray(wanted)), code)


def worst(*codes: Any) -> Any:
    """The first code that is not ``CONVERGED``, element by element, or ``CONVERGED``."""

    def first(xp: Any, *codes: Any) -> Any:
        result = codes[0]
        for code in codes[1:]:
            result = xp.where(result == CONVERGED, code, result)
        return result

    return lightly(first, *codes)


def message(code: Any) -> str:
    """The sentence for a status code; for an array of codes, one sentence with the counts."""
    codes = np.atleast_1d(np.asarray(code))
    kinds, counts = np.unique(codes, return_counts=True)
    if codes.size == 1:
        return _MESSAGES[int(kinds[0])]
    return "; ".join(f"{count} of {codes.size}: {_MESSAGES[int(k)]}" for k, count in zip(kinds, counts, strict=True))
