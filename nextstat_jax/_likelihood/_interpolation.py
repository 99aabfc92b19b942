"""Interpolation codes: how a systematic shift acts between and beyond its three measured points.

A histosys adds ``p(alpha) * odd + q(alpha) * even`` to its nominal yields, where ``odd = (hi - lo) / 2`` and
``even = (hi + lo) / 2 - nominal``: every code is a pair of scalar functions (p, q). A normsys multiplies by a factor
that is a polynomial for ``|alpha| < 1`` (code 4) and an exponential outside (codes 1 and 4).

References:
    CERN-OPEN-2012-016, section 4.1; code 4p is the shift counterpart of code 4.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

NORMSYS_CODES = ("code1", "code4")
HISTOSYS_CODES = ("code0", "code2", "code4p")


def has_kink(code: str) -> bool:
    """Whether a code has a kink at alpha = 0."""
    return code in ("code0", "code1")


class Basis(NamedTuple):
    """The two scalar functions of a histosys code and their first two derivatives, each of the shape of alpha."""

    p: Any
    q: Any
    dp: Any
    dq: Any
    d2p: Any
    d2q: Any


def shift_basis(code: str, alpha: Any) -> Basis:
    """The basis functions of a histosys code at ``alpha``.

    Args:
        code: One of ``HISTOSYS_CODES``.
        alpha: Array of any shape.

    Returns:
        ``Basis`` of arrays like ``alpha``. On a kink (code 0 at 0) the derivative is the mean of the two sides.
    """
    one, zero, size, sign = jnp.ones_like(alpha), jnp.zeros_like(alpha), jnp.abs(alpha), jnp.sign(alpha)
    if code == "code0":
        return Basis(alpha, size, one, sign, zero, zero)
    inside = size < 1
    # An argument of 0 outside keeps the powers finite, however far alpha is.
    a = jnp.where(inside, alpha, 0.0)
    s = a * a
    if code == "code4p":
        q = jnp.where(inside, s * (15.0 + s * (-10.0 + 3.0 * s)) / 8.0, size)
        dq = jnp.where(inside, a * (15.0 + s * (-20.0 + 9.0 * s)) / 4.0, sign)
        d2q = jnp.where(inside, (15.0 + s * (-60.0 + 45.0 * s)) / 4.0, 0.0)
        return Basis(alpha, q, one, dq, zero, d2q)
    # Code 2 as pyhf evaluates it: beyond +-1 it jumps, and its two sides are not mirror images.
    up = alpha > 1
    p = jnp.where(up, alpha - 1.0, alpha)
    q = jnp.where(up, 2.0 * (alpha - 1.0), jnp.where(alpha < -1, -2.0 * alpha, alpha * alpha))
    dq = jnp.where(up, 2.0, jnp.where(alpha < -1, -2.0, 2.0 * alpha))
    return Basis(p, q, one, dq, zero, jnp.where(size <= 1, 2.0, 0.0) * one)


# Value, slope and curvature of a1 x + ... + a6 x^6 at x = +1 and x = -1: code 4 solves for the six coefficients that
# continue hi^alpha and lo^-alpha with two continuous derivatives.
_POWERS = np.arange(1, 7)
_SIGNS = np.array([1.0, -1.0])[:, None]
_CONDITIONS = np.concatenate(
    [_SIGNS**_POWERS, _POWERS * _SIGNS ** (_POWERS - 1), _POWERS * (_POWERS - 1) * _SIGNS ** (_POWERS - 2)]
)
_CODE4 = np.linalg.inv(_CONDITIONS)

LOG_FLOOR = {np.dtype(np.float64): -690.0, np.dtype(np.float32): -80.0}


def factor_coefficients(hi: Any, lo: Any, xp: ModuleType = np) -> Any:
    """The eight numbers per normsys entry that evaluation needs.

    Args:
        hi: Factor at alpha = +1, any shape, not negative.
        lo: Factor at alpha = -1, same shape, not negative.
        xp: ``numpy`` or ``jax.numpy``.

    Returns:
        Array of shape ``(8, *hi.shape)``: the code-4 polynomial's coefficients of alpha^1 .. alpha^6, then log(hi) and
        log(lo). A factor of 0 has no logarithm; its logarithm is floored, and x log x and x log^2 x take their limit 0.
    """
    hi, lo = xp.asarray(hi), xp.asarray(lo)
    floor = LOG_FLOOR[np.dtype(hi.dtype)]

    def log(x: Any) -> Any:
        positive = x > 0
        return xp.where(positive, xp.maximum(xp.log(xp.where(positive, x, 1.0)), floor), floor)

    log_hi, log_lo = log(hi), log(lo)
    conditions = xp.stack([hi - 1, lo - 1, hi * log_hi, -lo * log_lo, hi * log_hi**2, lo * log_lo**2])
    polynomial = xp.tensordot(xp.asarray(_CODE4, dtype=hi.dtype), conditions, axes=1)
    return xp.concatenate([polynomial, log_hi[None], log_lo[None]])


class Factor(NamedTuple):
    """Normsys factors in pieces: ``polynomial * exp(exponent)``; outside ``|alpha| < 1`` the polynomial is 1."""

    polynomial: Any
    exponent: Any


def factor(code: str, alpha: Any, coefficients: Any) -> Factor:
    """The factor of each normsys entry at ``alpha``, kept in two pieces so that one exponential serves a whole row.

    Args:
        code: One of ``NORMSYS_CODES``.
        alpha: Array of any shape.
        coefficients: ``factor_coefficients`` of the entries, shape ``(8, *alpha.shape)``.
    """
    exponent = jnp.abs(alpha) * jnp.where(alpha > 0, coefficients[6], coefficients[7])
    if code == "code1":
        return Factor(jnp.ones_like(alpha), exponent)
    inside = jnp.abs(alpha) < 1
    a = jnp.where(inside, alpha, 0.0)
    value = coefficients[5]
    for k in (4, 3, 2, 1, 0):
        value = coefficients[k] + a * value
    return Factor(1.0 + a * value, jnp.where(inside, 0.0, exponent))


def factor_derivatives(code: str, alpha: Any, coefficients: Any, tiny: float) -> tuple[Any, Any]:
    """First and second derivative of each entry's factor, both divided by the factor.

    A polynomial that is (nearly) zero is replaced by ``tiny``, as in the factor that these ratios multiply.
    """
    slope = jnp.where(alpha > 0, coefficients[6], -coefficients[7])
    if code == "code1":
        # At alpha = 0 code 1 has a kink: take the mean of its two sides.
        slope = jnp.where(alpha == 0, 0.5 * (coefficients[6] - coefficients[7]), slope)
        return slope, slope * slope
    inside = jnp.abs(alpha) < 1
    a = jnp.where(inside, alpha, 0.0)
    value, first, second = coefficients[5], 6.0 * coefficients[5], 30.0 * coefficients[5]
    for k in (4, 3, 2, 1, 0):
        value = coefficients[k] + a * value
        first = (k + 1.0) * coefficients[k] + a * first
        if k:
            second = (k + 1.0) * k * coefficients[k] + a * second
    inverse = 1.0 / away_from_zero(1.0 + a * value, tiny)
    return jnp.where(inside, first * inverse, slope), jnp.where(inside, second * inverse, slope * slope)


def away_from_zero(x: Any, tiny: float) -> Any:
    """``x``, or ``tiny`` where ``|x| < tiny``: makes logarithmic derivatives of a product finite at a zero factor."""
    return jnp.where(jnp.abs(x) < tiny, tiny, x)
