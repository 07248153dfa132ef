"""Trying many seeds at parities of their states: compiled by numba, or by torch on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adaptzip.core.mersenne import STATE
from adaptzip.errors import RefusedError

Words = NDArray[np.uint32]
Scores = NDArray[np.int64]
Scan = Callable[[Words, Words, NDArray[np.int64]], Scores]
"""`scan(seeds, rows, expected)`: of each seed (n,) at each group of parities, how many are as expected: (n, groups).

Rows are (groups, parities, 624), see `parities`, expected (groups, parities), 0 or 1; a multiple of 4 parities."""

_LANES = 64
_MULTIPLIER = 1812433253


def scanner(device: torch.device) -> Scan:
    """The fastest scan that there is for a device.

    Raises:
        RefusedError: if the device is the CPU, and numba is not installed.
    """
    if device.type != "cpu":
        return lambda seeds, rows, expected: scan_with_torch(seeds, rows, expected, device)
    if find_spec("numba") is None:
        raise RefusedError("trying every seed on a CPU needs the package numba", hint="pip install numba")
    return _compiled()


def scan_with_torch(seeds: Words, rows: Words, expected: NDArray[np.int64], device: torch.device) -> Scores:
    """The same with torch's elementwise operations: for GPUs, and slow elsewhere."""
    word = torch.from_numpy(seeds.view(np.int32)).to(device)
    totals = torch.zeros((*rows.shape[:2], len(seeds)), dtype=torch.int32, device=device)
    columns = torch.from_numpy(rows.view(np.int32).transpose(2, 0, 1)[..., None].copy()).to(device)
    for k in range(STATE):
        if k:
            # Shifts of signed numbers copy the sign: the mask leaves the two bits that an unsigned one would.
            word = (word ^ ((word >> 30) & 3)) * _MULTIPLIER + k
        totals ^= word & columns[k]
    for shift in (16, 8, 4, 2, 1):
        totals ^= totals >> shift
    right = (totals & 1) == torch.from_numpy(expected).to(device)[..., None]
    scores: Scores = right.sum(dim=1).T.cpu().numpy()
    return scores


@cache
def _compiled() -> Scan:
    numba: Any = import_module("numba")
    jit: Callable[..., Any] = numba.njit(nogil=True, error_model="numpy")
    seed_lanes, add_four, score_four = jit(_seed_lanes), jit(_add_four), jit(_score_four)

    def scan(seeds: Words, rows: Words, expected: NDArray[np.int64]) -> Scores:
        groups, each = rows.shape[:2]
        state = np.empty((STATE, _LANES), np.uint32)
        totals = np.empty((4, _LANES), np.uint32)
        scores = np.zeros((groups, len(seeds)), np.int64)
        padded = np.zeros(-(-len(seeds) // _LANES) * _LANES, np.uint32)
        padded[: len(seeds)] = seeds
        counts = np.zeros(_LANES, np.int64)
        for start in range(0, len(seeds), _LANES):
            seed_lanes(state, padded[start : start + _LANES])
            for group in range(groups):
                counts[:] = 0
                for row in range(0, each, 4):
                    add_four(state, rows[group, row : row + 4], totals)
                    score_four(totals, expected[group, row : row + 4], counts)
                stop = min(start + _LANES, len(seeds))
                scores[group, start:stop] = counts[: stop - start]
        return scores.T

    compiled: Scan = jit(scan)
    return compiled


def _seed_lanes(state: Any, seeds: Any) -> None:
    """Fill the states of seeds side by side; the innermost loop becomes one instruction for many of them."""
    state[0] = seeds
    for k in range(1, 624):
        before, here = state[k - 1], state[k]
        for lane in range(_LANES):
            word = before[lane]
            here[lane] = np.uint32(np.uint32(_MULTIPLIER) * np.uint32(word ^ (word >> np.uint32(30))) + np.uint32(k))


def _add_four(state: Any, rows: Any, totals: Any) -> None:
    """Add up, bit by bit modulo 2, what four rows choose of each state: together, as reading states takes longest."""
    totals[:] = 0
    a, b, c, d = rows[0], rows[1], rows[2], rows[3]
    p, q, r, s = totals[0], totals[1], totals[2], totals[3]
    for k in range(0, 624, 4):
        a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
        b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
        c0, c1, c2, c3 = c[k], c[k + 1], c[k + 2], c[k + 3]
        d0, d1, d2, d3 = d[k], d[k + 1], d[k + 2], d[k + 3]
        k0, k1, k2, k3 = state[k], state[k + 1], state[k + 2], state[k + 3]
        for lane in range(_LANES):
            w, x, y, z = k0[lane], k1[lane], k2[lane], k3[lane]
            p[lane] = np.uint32(p[lane] ^ (w & a0) ^ (x & a1) ^ (y & a2) ^ (z & a3))
            q[lane] = np.uint32(q[lane] ^ (w & b0) ^ (x & b1) ^ (y & b2) ^ (z & b3))
            r[lane] = np.uint32(r[lane] ^ (w & c0) ^ (x & c1) ^ (y & c2) ^ (z & c3))
            s[lane] = np.uint32(s[lane] ^ (w & d0) ^ (x & d1) ^ (y & d2) ^ (z & d3))


def _score_four(totals: Any, expected: Any, counts: Any) -> None:
    for row in range(4):
        total, wanted = totals[row], expected[row]
        for lane in range(_LANES):
            word = total[lane]
            word = np.uint32(word ^ (word >> np.uint32(16)))
            word = np.uint32(word ^ (word >> np.uint32(8)))
            word = np.uint32(word ^ (word >> np.uint32(4)))
            word = np.uint32(word ^ (word >> np.uint32(2)))
            word = np.uint32(word ^ (word >> np.uint32(1)))
            counts[lane] += np.int64(word & np.uint32(1)) == wanted
