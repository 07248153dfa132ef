"""log, sin and cos as the format defines them: one rounded float64 operation at a time, so that no libm matters.

All take whole numbers of 24 bits, whose reduction is exact. They are within 2e-15 of the functions they are called by.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BITS = 24
LN2 = 0.6931471805599453
SQRT_HALF = 0.7071067811865476
STEP = 3.7450702829239286e-07
"""2 pi / 2^24."""
LOG_TERMS = tuple(1 / k for k in range(19, 0, -2))
"""Of atanh(s) / s in s^2, the highest power first: 1/19, 1/17, ..., 1."""
SIN_TERMS = (
    -7.647163731819816e-13,
    1.6059043836821613e-10,
    -2.505210838544172e-08,
    2.7557319223985893e-06,
    -0.0001984126984126984,
    0.008333333333333333,
    -0.16666666666666666,
    1.0,
)
"""Of sin(y) / y in y^2: -1/15!, 1/13!, ..., 1."""
COS_TERMS = (
    4.779477332387385e-14,
    -1.1470745597729725e-11,
    2.08767569878681e-09,
    -2.755731922398589e-07,
    2.48015873015873e-05,
    -0.001388888888888889,
    0.041666666666666664,
    -0.5,
    1.0,
)
"""Of cos(y) in y^2: 1/16!, -1/14!, ..., 1."""


def log(numbers: NDArray[np.int64]) -> Floats:
    """The natural logarithm of n / 2^24, for 1 <= n <= 2^24."""
    mantissa, exponent = np.frexp(numbers.astype(np.float64))
    small = mantissa < SQRT_HALF
    mantissa = np.where(small, mantissa + mantissa, mantissa)
    power = (exponent - small - BITS).astype(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return power * LN2 + (s + s) * _polynomial(LOG_TERMS, s * s)


def cos_sin(numbers: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """cos and sin of 2 pi n / 2^24, for 0 <= n < 2^24."""
    quarter = (numbers + (1 << 21)) >> 22
    y = (numbers - (quarter << 22)).astype(np.float64) * STEP
    square = y * y
    sin, cos = y * _polynomial(SIN_TERMS, square), _polynomial(COS_TERMS, square)
    odd = quarter & 1 == 1
    x, z = np.where(odd, sin, cos), np.where(odd, cos, sin)
    turned = quarter & 3
    return np.where((turned == 1) | (turned == 2), -x, x), np.where(turned >= 2, -z, z)


def _polynomial(terms: tuple[float, ...], x: Floats) -> Floats:
    """Horner's rule, the highest power first: each step is a product, rounded, and a sum, rounded."""
    total = np.full_like(x, terms[0])
    for term in terms[1:]:
        total *= x
        total += term
    return total
