"""The search of `adaptzip.adz.coding.search`, number by number, with all states of the trellis in vector registers."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from adaptzip.adz.coding.trellis import PARITY_CHECK, STATES
from adaptzip.core.compiled import compiled

_HALF = STATES // 2
_FED_BACK = (PARITY_CHECK[0] >> 1) - _HALF
_BY_PARITY = PARITY_CHECK[1] >> 1
"""State u of half q is entered, by parity p, from the state `2 * (u ^ q * _FED_BACK ^ p * _BY_PARITY) + q`."""
_ROUNDING = np.float32(1.5 * 2**23)
"""Adding and taking away this rounds a smaller number below 2^22 to the nearest whole one, halves to the even one."""

F = np.float32


@intrinsic
def _advance(_: Any, cost: Any, branches: Any, survivors: Any, stage: Any) -> Any:
    """One stage: the costs (STATES,) of the cheapest paths to all states, and to `survivors` their last parities.

    LLVM finds neither the permutations of states nor the bits of comparisons in a loop, so that they are spelled out.
    """

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = [context.make_array(t)(context, builder, a) for t, a in zip(signature.args[:3], args, strict=False)]
        costs, branch, survivor = (array.data for array in arrays)
        word, narrow = ir.IntType(64), ir.IntType(32)

        def chosen(first: Any, second: Any, order: list[int]) -> Any:
            places = ir.Constant(ir.VectorType(narrow, len(order)), [ir.Constant(narrow, i) for i in order])
            return builder.shuffle_vector(first, second, places)

        place = builder.bitcast(costs, ir.VectorType(ir.FloatType(), STATES).as_pointer())
        old = builder.load(place, align=4)
        halves = []
        for q in (0, 1):
            sums = []
            for p in (0, 1):
                before = [2 * (u ^ q * _FED_BACK ^ p * _BY_PARITY) + q for u in range(_HALF)]
                added = builder.load(builder.gep(branch, [ir.Constant(word, 2 * q + p)]))
                nothing = ir.Constant(ir.VectorType(ir.FloatType(), _HALF), ir.Undefined)
                one = builder.insert_element(nothing, added, ir.Constant(narrow, 0))
                sums.append(builder.fadd(chosen(old, old, before), chosen(one, one, [0] * _HALF)))
            even, odd = sums
            less = builder.fcmp_ordered("<", odd, even)
            halves.append(builder.select(less, odd, even))
            at = builder.add(builder.mul(args[3], ir.Constant(word, 2)), ir.Constant(word, q))
            builder.store(builder.bitcast(less, word), builder.gep(survivor, [at]))
        builder.store(chosen(halves[0], halves[1], list(range(STATES))), place, align=4)
        return context.get_dummy_value()

    return types.void(cost, branches, survivors, stage), build


@compiled
def _cost(size: Any, level: Any, q: Any, base: Any, bits: Any, columns: Any) -> Any:
    value = F(2 * level - (q if level > 0 else 0))
    off = F(size - value)
    return F(F(off * off) + bits[base + min(level, columns - 1)])


@compiled
def _nearest(size: Any, q: Any) -> Any:
    """The nearest level of a quantiser, and the next nearest."""
    middle = F(F(size + F(q)) * F(0.5))
    near = np.int32(F(F(middle + _ROUNDING) - _ROUNDING))
    return near, near - np.int32(1) if middle < F(near) else near + np.int32(1)


@compiled
def _price(x: Any, base: Any, bits: Any, columns: Any, branches: Any) -> Any:
    """The cost (4,) of the best level of each (quantiser, parity); the bits of quantisers whose even level is 0."""
    size = F(abs(x))
    zeros = 0
    for q in range(2):
        near, far = _nearest(size, q)
        own = base + q * columns
        near_cost = _cost(size, near, q, own, bits, columns)
        far_cost = _cost(size, far, q, own, bits, columns)
        zero_cost = F(F(size * size) + bits[own])
        even, odd = (far_cost, near_cost) if near & 1 else (near_cost, far_cost)
        zeros |= (zero_cost < even) << q
        branches[2 * q], branches[2 * q + 1] = min(even, zero_cost), odd
    return zeros


@compiled
def _level(x: Any, q: Any, parity: Any, zeros: Any) -> Any:
    """The level that `_price` had in mind."""
    if not parity and zeros >> q & 1:
        return np.int32(0)
    near, far = _nearest(F(abs(x)), q)
    level = near if near & 1 == parity else far
    return -level if x < 0 else level


@compiled
def search(x: Any, classes: Any, rates: Any, levels: Any, quantiser: Any) -> None:
    """Put the best levels and quantisers of a tensor into `levels` and `quantiser`.

    Args:
        x: (rows, width) float32 in steps, below 2^20.
        classes: (rows,) int64, the row of `rates` of each row.
        rates: (classes, 2, columns) float32, weighted.
        levels, quantiser: (rows, width) int32 and uint8.
    """
    rows, width = x.shape
    columns, bits = rates.shape[2], rates.reshape(-1)
    survivors = np.empty((rows * width, 2), np.uint64)
    zeros = np.empty(rows * width, np.uint8)
    cost, branches = np.full(STATES, np.inf, np.float32), np.empty(4, np.float32)
    cost[0] = 0
    for row in range(rows):
        base = classes[row] * 2 * columns
        for i in range(width):
            stage = row * width + i
            zeros[stage] = _price(x[row, i], base, bits, columns, branches)
            _advance(cost, branches, survivors, stage)  # type: ignore[call-arg]
    state = np.argmin(cost)
    for stage in range(rows * width - 1, -1, -1):
        q, u = state // _HALF, state % _HALF
        parity = np.int64((survivors[stage, q] >> np.uint64(u)) & np.uint64(1))
        state = 2 * (u ^ q * _FED_BACK ^ parity * _BY_PARITY) + q
        row, i = stage // width, stage % width
        levels[row, i] = _level(x[row, i], q, parity, zeros[stage])
        quantiser[row, i] = q
