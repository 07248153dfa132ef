"""Modes: the small factors of a width into which a matrix's rows or columns are folded."""

from __future__ import annotations

from functools import lru_cache

_LARGE = 16
"""A prime factor above this is a mode of its own."""


@lru_cache(maxsize=4096)
def factorise(width: int) -> tuple[int, ...]:
    """Modes of a width, falling, whose product it is; about 8 each where the width allows it.

    Prime factors above 16 are modes of their own. Of the rest, x, come d modes with d = max(1, round(log8 x)), the
    half rounded up, but no more than x has prime factors: these, falling, are multiplied one by one into whichever
    mode is smallest then. The width 1 has the one mode 1. Readers of `.adz` files compute the same
    (formats/methods/loretta.md).

    Raises:
        ValueError: if `width` is below 1.
    """
    if width < 1:
        raise ValueError(f"a width is at least 1, found {width}")
    primes = _primes(width)
    large = [p for p in primes if p > _LARGE]
    small = [p for p in primes if p <= _LARGE]
    if large and not small:
        return tuple(large)
    rest = 1
    for p in small:
        rest *= p
    modes = [1] * max(1, min(_count(rest), len(small)))
    for p in small:
        modes[modes.index(min(modes))] *= p
    return tuple(sorted([*large, *modes], reverse=True))


def _count(x: int) -> int:
    """max(1, floor(log8 x + 1/2)), in whole numbers."""
    count = 1
    while x * x >= 8 ** (2 * count + 1):
        count += 1
    return count


def _primes(number: int) -> list[int]:
    """Prime factors, falling."""
    found = []
    divisor = 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return sorted([*found, number] if number > 1 else found, reverse=True)
