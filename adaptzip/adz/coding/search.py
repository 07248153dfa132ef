"""The search for the best path through the trellis: the Viterbi algorithm on squared error + BIT_WEIGHT * bits.

It is compiled (`kernels.search`). What is written here in torch does the same, bit for bit, where there is no numba.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from adaptzip.adz.coding.trellis import STATES, Quantised, predecessors
from adaptzip.core import compiled
from adaptzip.core.rates import BIT_WEIGHT
from adaptzip.core.workers import parallel_map

_TOGETHER = 2**17
"""Numbers that a worker searches at a time, unless one tensor has more: few enough for little memory."""
_PRICED_TOGETHER = 16384
"""Numbers whose levels are priced together: small adapters then take few operations, and caches are not exceeded."""


def quantise(tensors: Sequence[Tensor], classes: Sequence[Tensor], rates: Tensor, step: float) -> list[Quantised]:
    """Quantise tensors, each a path through the trellis of its own, from its first number to its last.

    Args:
        tensors: each (rows, width) float32, on any device, below 2^20 steps.
        classes: per tensor (rows,) int64, the row of `rates` that models each row.
        rates: (classes, 2, levels) bits of |k| under quantiser 0 and 1, sign included; the last column stands for
            every larger |k|.
        step: the quantiser step.
    """
    weighted = (rates * BIT_WEIGHT).float()
    numbers = [(tensor.detach() / step).cpu() for tensor in tensors]
    own = [index.cpu() for index in classes]
    return (compiled_search if compiled.available() else interpreted_search)(numbers, own, weighted)


def compiled_search(tensors: Sequence[Tensor], classes: Sequence[Tensor], weighted: Tensor) -> list[Quantised]:
    """`quantise` of numbers in steps, at weighted rates."""
    from adaptzip.adz.coding.kernels.search import search

    prices = weighted.numpy()
    results = _room(tensors)

    def run(part: Sequence[int]) -> None:
        for i in part:
            x, index = tensors[i].contiguous().numpy(), classes[i].numpy()
            search(x, index, prices, results[i].levels, results[i].quantiser)

    parts = list(_parts(tensors, range(len(tensors))))
    for _ in parallel_map(run, parts) if len(parts) > 1 else map(run, parts):
        pass
    return results


def interpreted_search(tensors: Sequence[Tensor], classes: Sequence[Tensor], weighted: Tensor) -> list[Quantised]:
    """The same without numba: tensors of as many numbers side by side."""
    results = _room(tensors)
    for numbers in {tensor.numel() for tensor in tensors if tensor.numel()}:
        for part in _parts(tensors, [i for i, tensor in enumerate(tensors) if tensor.numel() == numbers]):
            x = torch.stack([tensors[i].reshape(-1) for i in part], dim=1)
            index = [classes[i].to(torch.int32).repeat_interleave(tensors[i].shape[1]) for i in part]
            levels, quantiser = _viterbi(x, torch.stack(index, dim=1), weighted)
            for column, i in enumerate(part):
                results[i].levels[:] = levels[:, column].reshape(tensors[i].shape).numpy()
                results[i].quantiser[:] = quantiser[:, column].reshape(tensors[i].shape).numpy()
    return results


def _room(tensors: Sequence[Tensor]) -> list[Quantised]:
    return [Quantised(np.empty(x.shape, np.int32), np.empty(x.shape, np.uint8)) for x in tensors]


def _parts(tensors: Sequence[Tensor], indices: Sequence[int]) -> Iterator[list[int]]:
    """Indices of tensors, in parts that do not depend on the number of workers."""
    part: list[int] = []
    room = _TOGETHER
    for i in indices:
        if part and tensors[i].numel() > room:
            yield part
            part, room = [], _TOGETHER
        part.append(i)
        room -= tensors[i].numel()
    if part:
        yield part


def _viterbi(x: Tensor, classes: Tensor, weighted: Tensor) -> tuple[Tensor, Tensor]:
    """Best levels and quantisers of tensors side by side; all (numbers, tensors)."""
    stages, lanes = x.shape
    columns = weighted.shape[2]
    offsets = classes * (2 * columns)
    flat = weighted.reshape(-1)
    before = torch.from_numpy(predecessors())
    cost = torch.full((STATES, lanes), torch.inf)
    cost[0] = 0.0
    narrow = bool(x.abs().max() < torch.iinfo(torch.int16).max)
    choices = torch.empty((stages, 4, lanes), dtype=torch.int16 if narrow else torch.int32)
    survivors = torch.empty((stages, STATES, lanes), dtype=torch.bool)
    group = max(1, _PRICED_TOGETHER // lanes)
    for first in range(0, stages, group):
        part = slice(first, first + group)
        costs = _branch_costs(x[part], offsets[part], flat, columns, choices[part])
        for t, branches in enumerate(costs.reshape(-1, 2, 2, 1, lanes), first):
            even = cost[before[0]].reshape(2, -1, lanes).add_(branches[:, 0])
            odd = cost[before[1]].reshape(2, -1, lanes).add_(branches[:, 1])
            torch.lt(odd, even, out=survivors[t].view(even.shape))
            cost = torch.minimum(even, odd, out=even).reshape(STATES, lanes)
    return _trace_back(cost, choices, survivors, before)


def _branch_costs(x: Tensor, offset: Tensor, flat: Tensor, columns: int, choice: Tensor) -> Tensor:
    """Cost of the best level of each (quantiser, parity), (stages, 4, lanes); the levels go to `choice`, as large.

    Args:
        x, offset: both (stages, lanes).
    """
    size = x.abs()
    costs = torch.empty(choice.shape)
    for q in (0, 1):
        middle = (size + q) / 2
        near = middle.round()
        far = torch.where(middle < near, near - 1, near + 1)
        base = offset + q * columns
        near_cost = _cost(size, near, q, base, flat, columns)
        far_cost = _cost(size, far, q, base, flat, columns)
        zero_cost = size.square().add_(flat[base])
        near_even = near.remainder(2) == 0
        even_cost = torch.where(near_even, near_cost, far_cost)
        even = torch.where(near_even, near, far)
        zero = zero_cost < even_cost
        costs[:, 2 * q] = torch.minimum(even_cost, zero_cost)
        costs[:, 2 * q + 1] = torch.where(near_even, far_cost, near_cost)
        choice[:, 2 * q] = even.masked_fill_(zero, 0.0)
        choice[:, 2 * q + 1] = torch.where(near_even, far, near)
    choice.mul_(torch.where(x < 0, -1, 1).to(choice.dtype)[:, None])
    return costs


def _cost(size: Tensor, level: Tensor, q: int, base: Tensor, flat: Tensor, columns: int) -> Tensor:
    value = 2 * level - q * (level > 0) if q else 2 * level
    bits = flat[base + level.clamp(max=columns - 1).to(torch.int32)]
    return (size - value).square_().add_(bits)


def _trace_back(cost: Tensor, choices: Tensor, survivors: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Follow the cheapest path of every tensor from its last number to its first."""
    stages, _, lanes = choices.shape
    levels = torch.empty((stages, lanes), dtype=torch.int32)
    quantisers = torch.empty((stages, lanes), dtype=torch.uint8)
    state = cost.argmin(0)
    for t in range(stages - 1, -1, -1):
        parity = survivors[t].gather(0, state[None])[0].long()
        state = before[parity, state]
        quantiser = state & 1
        levels[t] = choices[t].gather(0, (2 * quantiser + parity)[None])[0]
        quantisers[t] = quantiser.to(torch.uint8)
    return levels, quantisers
