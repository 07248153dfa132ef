"""A second making of known starts and frames, written from starts-1.md. It shares no code with adaptzip.

It needs Python and numpy; decoder.py reads `.adz` files with it. Plain loops where adaptzip has none: it judges the
format's text, and is in no hurry.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]
WORD = 0xFFFFFFFF
MIDDLE = 2**23

LN2, STEP = 0.6931471805599453, 3.7450702829239286e-07
LOG = [1 / 19, 1 / 17, 1 / 15, 1 / 13, 1 / 11, 1 / 9, 1 / 7, 1 / 5, 1 / 3, 1.0]
SIN = [
    *(-7.647163731819816e-13, 1.6059043836821613e-10, -2.505210838544172e-08, 2.7557319223985893e-06),
    *(-0.0001984126984126984, 0.008333333333333333, -0.16666666666666666, 1.0),
]
COS = [
    *(4.779477332387385e-14, -1.1470745597729725e-11, 2.08767569878681e-09, -2.755731922398589e-07),
    *(2.48015873015873e-05, -0.001388888888888889, 0.041666666666666664, -0.5, 1.0),
]


class BrokenStart(ValueError):
    """The start or frame must be refused; the message says why."""


class Module(NamedTuple):
    """Where a module's tensor is, and its shape."""

    offset: int
    rows: int
    width: int


def start_matrices(generator: str, seed: int, modules: Mapping[str, Module]) -> dict[str, Whole]:
    """N of every module (section 1)."""
    check_limits(generator, seed, modules)
    if generator == "mlx":
        return {name: _mlx(seed, module) for name, module in modules.items()}
    ends = [module.offset + module.rows * module.width + 16 for module in modules.values()]
    w = list(islice(_outputs(seed), max(ends, default=0)))
    make = _uniform if generator == "uniform" else _normal
    return {name: make(w[m.offset :], m.rows * m.width).reshape(m.rows, m.width) for name, m in modules.items()}


def check_limits(generator: str, seed: int, modules: Mapping[str, Module]) -> None:
    """Section 1.6."""
    if generator not in ("uniform", "normal", "mlx") or not 0 <= seed < 2**64:
        raise BrokenStart(f"generator {generator} with seed {seed}")
    numbers = sum(module.rows * module.width for module in modules.values())
    for name, (offset, rows, width) in modules.items():
        count = rows * width
        if not 1 <= rows <= min(1024, width) or width > 65535 or offset < 0:
            raise BrokenStart(f"{name}: offset {offset}, {rows} x {width}")
        if generator == "mlx":
            if offset > 65536:
                raise BrokenStart(f"{name}: key {offset}")
            continue
        if generator == "normal":
            if count < 16:
                raise BrokenStart(f"{name}: {count} normal numbers")
            count += 16 if count % 16 else 0
        if offset + count > 2**28 + 16 * numbers:
            raise BrokenStart(f"{name}: offset {offset}")


def _outputs(seed: int) -> Iterator[int]:
    """The low 24 bits of each output."""
    return (word & 0xFFFFFF for word in outputs(seed))


def outputs(seed: int) -> Iterator[int]:
    """Section 1.1."""
    x = [seed & WORD]
    for k in range(1, 624):
        x.append((1812433253 * (x[-1] ^ (x[-1] >> 30)) + k) & WORD)
    k = 0
    while True:
        y = (x[k] & 0x80000000) | (x[(k + 1) % 624] & 0x7FFFFFFF)
        z = x[k] = x[(k + 397) % 624] ^ (y >> 1) ^ (0x9908B0DF if y & 1 else 0)
        k = (k + 1) % 624
        z ^= z >> 11
        z ^= (z << 7) & 0x9D2C5680
        z ^= (z << 15) & 0xEFC60000
        yield z ^ (z >> 18)


def _uniform(w: list[int], count: int) -> Whole:
    """Section 1.2."""
    return np.array(w[:count], np.int64) - MIDDLE


def _normal(w: list[int], count: int) -> Whole:
    """Section 1.3."""
    numbers = np.zeros(count, np.int64)
    for first in range(0, count - 15, 16):
        numbers[first : first + 16] = _block(w[first : first + 16])
    if count % 16:
        numbers[-16:] = _block(w[count : count + 16])
    return numbers


def _block(w: list[int]) -> list[int]:
    pairs = []
    for j in range(8):
        radius = math.sqrt(-2 * log(2**24 - w[j]))
        cos, sin = cos_sin(w[j + 8])
        pairs.append((round(radius * cos * 2**20), round(radius * sin * 2**20)))
    return [pair[0] for pair in pairs] + [pair[1] for pair in pairs]


def _polynomial(coefficients: list[float], z: float) -> float:
    total = coefficients[0]
    for c in coefficients[1:]:
        total = total * z
        total = total + c
    return total


def log(n: int) -> float:
    """Section 1.4."""
    m, e = math.frexp(n)
    if m < 0.7071067811865476:
        m, e = m * 2, e - 1
    s = (m - 1) / (m + 1)
    return (e - 24) * LN2 + (s + s) * _polynomial(LOG, s * s)


def cos_sin(n: int) -> tuple[float, float]:
    """Section 1.4."""
    q = (n + 2**21) // 2**22
    y = (n - q * 2**22) * STEP
    z = y * y
    S, C = y * _polynomial(SIN, z), _polynomial(COS, z)
    return ((C, S), (-S, C), (-C, -S), (S, -C))[q % 4]


def _mlx(seed: int, module: Module) -> Whole:
    """Section 1.5."""
    state = seed >> 32, seed & WORD
    for _ in range(module.offset + 1):
        a, b, c, d = _words(state, 4)
        state, key = (a, b), (c, d)
    words = _words(key, module.rows * module.width)
    drawn = np.array([word >> 8 for word in words], np.int64) - MIDDLE
    return drawn.reshape(module.width, module.rows).T


def _words(key: tuple[int, int], n: int) -> list[int]:
    h = -(-n // 2)
    words = [0] * (2 * h)
    for j in range(h):
        alone = n % 2 and j == h - 1
        words[j], words[j + h] = _threefry(key, j, 0 if alone else j + h)
    return words[:n]


def _threefry(key: tuple[int, int], x: int, y: int) -> tuple[int, int]:
    k = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = (x + k[0]) & WORD, (y + k[1]) & WORD
    for g in range(5):
        for t in ((13, 15, 26, 6), (17, 29, 16, 24))[g % 2]:
            x = (x + y) & WORD
            y = ((y << t) | (y >> (32 - t))) & WORD
            y ^= x
        x, y = (x + k[(g + 1) % 3]) & WORD, (y + k[(g + 2) % 3] + g + 1) & WORD
    return x, y


def reference_matrix(A: NDArray[np.floating]) -> Whole:
    """Section 2."""
    rows = []
    for row in A.astype(np.float64).tolist():
        a = max(map(abs, row))
        if not all(map(math.isfinite, row)) or not 2.0**-149 <= a < 2.0**128:
            raise BrokenStart(f"a row's largest number is {a}")
        scale = 2.0**22 / a
        rows.append([round(x * scale) for x in row])
    return np.array(rows, np.int64)


def frame(N: Whole) -> NDArray[np.float32]:
    """Section 3: V (in, r0)."""
    rows, width = N.shape
    if not 1 <= rows <= min(1024, width) or width > 65535 or np.abs(N).max() > MIDDLE:
        raise BrokenStart(f"no frame of {rows} x {width}")
    G = (N @ N.T).astype(np.float64)
    first, L = G.diagonal().copy(), np.zeros_like(G)
    for k in range(rows):
        if not G[k, k] > 2.0**-24 * first[k]:
            raise BrokenStart(f"row {k} depends on those before it")
        L[k, k] = math.sqrt(G[k, k])
        for i in range(k + 1, rows):
            L[i, k] = G[i, k] / L[k, k]
        for i in range(k + 1, rows):
            for j in range(k + 1, rows):
                product = L[i, k] * L[j, k]
                G[i, j] = G[i, j] - product
    F = N.astype(np.float64)
    for k in range(rows):
        F[k] = F[k] / L[k, k]
        for i in range(k + 1, rows):
            taken = L[i, k] * F[k]
            F[i] = F[i] - taken
    return F.T.astype(np.float32)
