"""Dependent (trellis-coded) quantisation with a 128-state Ungerboeck code.

Two scalar quantisers share one step: quantiser 0 holds the even multiples of the step, quantiser 1 the odd ones and
zero. Which of them codes a number follows from the parities of the levels before it in its chain, so the pair acts
as a denser quantiser in many dimensions at the rate of a scalar one. The encoder finds the best path by the Viterbi
algorithm on squared error + BIT_WEIGHT * bits (entropy-coded TCQ: Fischer and Wang 1992; the level layout with a zero
in both quantisers is that of dependent quantisation in video coding, Schwarz et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.core.rates import BIT_WEIGHT
from adaptzip.core.workers import parallel_map

CHAIN = 128
"""Stages of a trellis: a block's numbers are dealt to lanes of this length."""
SHORT_CHAIN = 64
LARGE_BLOCK = 32768
"""Blocks of this many numbers and more are dealt to lanes of `SHORT_CHAIN`, which decode faster."""
MAX_LEVEL = 2**20
"""Largest level a file may hold; a step that would need more is refused."""

MEMORY = 7
"""Bits of a trellis state."""
STATES = 2**MEMORY
PARITY_CHECK = (0o235, 0o126)
"""Parity-check polynomials h0, h1 of Ungerboeck's 128-state code for one dimension (1987, part II, table I)."""

_LANES = {"cpu": 2048, "cuda": 65536}
"""Lanes searched together: few enough for a processor's cache, enough to fill a GPU."""
_PRICED_TOGETHER = 16384
"""Numbers whose levels are priced together: small adapters then take few operations, and caches are not exceeded."""


@dataclass(frozen=True, eq=False)
class Quantised:
    """Levels of a block and the quantiser each was taken from, both (rows, width) int32 and uint8."""

    levels: NDArray[np.int32]
    quantiser: NDArray[np.uint8]

    def values(self) -> NDArray[np.int32]:
        """Reconstructed numbers in units of the step."""
        return values(self.levels, self.quantiser)


def values(levels: NDArray[np.int32], quantiser: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Multiples of the step: 2k under quantiser 0, 2k - sign(k) under quantiser 1."""
    result: NDArray[np.int32] = 2 * levels - np.sign(levels) * quantiser.astype(np.int32)
    return result


def stages_of(numbers: int) -> int:
    """Number of stages of a block of `numbers`."""
    return CHAIN if numbers < LARGE_BLOCK else SHORT_CHAIN


def lanes_of(numbers: int) -> int:
    """Number of lanes that a block of `numbers` is dealt to."""
    return -(-numbers // stages_of(numbers))


def quantise(blocks: Sequence[Tensor], classes: Sequence[Tensor], rates: Tensor, step: float) -> list[Quantised]:
    """Quantise blocks of rows, all lanes of all blocks of as many stages side by side.

    Args:
        blocks: each (rows, width) float32, on any one device.
        classes: per block (rows,) int64, the row of `rates` that models each row.
        rates: (classes, 2, levels) bits of |k| under quantiser 0 and 1, sign included; the last column stands for
            every larger |k|.
        step: the quantiser step.

    Element e of a block in row-major order is stage e // lanes of lane e % lanes.
    """
    results: dict[int, Quantised] = {}
    for stages in (CHAIN, SHORT_CHAIN):
        indices = [i for i, block in enumerate(blocks) if stages_of(block.numel()) == stages]
        dealt = [_deal(blocks[i], classes[i], step) for i in indices]
        if not dealt:
            continue
        x, index = (torch.cat(parts, dim=1) for parts in zip(*dealt, strict=True))
        most = _LANES.get(x.device.type, _LANES["cpu"])
        found = _searched(x, index, rates, most)
        levels, quantisers = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        widths = [pair[0].shape[1] for pair in dealt]
        for i, k, q in zip(indices, torch.split(levels, widths, 1), torch.split(quantisers, widths, 1), strict=True):
            results[i] = Quantised(_collect(k, blocks[i]).numpy(), _collect(q, blocks[i]).numpy())
    return [results[i] for i in range(len(blocks))]


def _searched(x: Tensor, classes: Tensor, rates: Tensor, most: int) -> list[tuple[Tensor, Tensor]]:
    """`_viterbi` of at most so many lanes at a time; a few lanes are not worth a worker."""
    if x.shape[1] <= most:
        return [_viterbi(x, classes, rates)]
    cut = zip(torch.split(x, most, 1), torch.split(classes, most, 1), strict=True)
    return list(parallel_map(lambda part: _viterbi(*part, rates), cut, device=x.device))


def _deal(block: Tensor, classes: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """A block's numbers in steps and their classes, both (stages, lanes), padded with zeros."""
    stages = stages_of(block.numel())
    padding = lanes_of(block.numel()) * stages - block.numel()
    x = torch.nn.functional.pad(block.reshape(-1) / step, (0, padding)).reshape(stages, -1)
    index = classes.to(torch.int32).repeat_interleave(block.shape[1])
    return x, torch.nn.functional.pad(index, (0, padding)).reshape(stages, -1)


def _collect(dealt: Tensor, block: Tensor) -> Tensor:
    """Inverse of dealing: a block's shape again."""
    return dealt.reshape(-1)[: block.numel()].reshape(block.shape)


def next_states() -> NDArray[np.uint8]:
    """(STATES, 2): the next state by state and parity of the level; the lowest bit of a state is its quantiser.

    This is the code's encoder in observer form: the state moves down by a bit, and the quantiser and the parity are
    fed back through h0 and h1 without their constant terms.
    """
    h0, h1 = PARITY_CHECK
    state = np.arange(STATES)[:, None]
    following = (state >> 1) ^ (state & 1) * (h0 >> 1) ^ np.arange(2) * (h1 >> 1)
    return following.astype(np.uint8)


def _predecessors() -> NDArray[np.int64]:
    """(2, STATES): the state before each state, by the parity that led there.

    The first half of the states is entered from quantiser 0 and the second from quantiser 1, because h0 has degree
    MEMORY and h1 a smaller one.
    """
    before = np.empty((2, STATES), dtype=np.int64)
    for parity in (0, 1):
        before[parity, next_states()[:, parity]] = np.arange(STATES)
    return before


def _viterbi(x: Tensor, classes: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    """Best levels and quantisers of lanes, on the CPU; all (stages, lanes)."""
    stages, lanes = x.shape
    device = x.device
    weighted = (rates * BIT_WEIGHT).to(device=device, dtype=torch.float32)
    columns = weighted.shape[2]
    offsets = classes * (2 * columns)
    flat = weighted.reshape(-1)
    before = torch.from_numpy(_predecessors()).to(device)
    cost = torch.full((STATES, lanes), torch.inf, device=device)
    cost[0] = 0.0
    narrow = bool(x.abs().max() < torch.iinfo(torch.int16).max)
    choices = torch.empty((stages, 4, lanes), dtype=torch.int16 if narrow else torch.int32, device=device)
    survivors = torch.empty((stages, STATES, lanes), dtype=torch.bool, device=device)
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
    costs = torch.empty(choice.shape, device=x.device)
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
    """Follow the cheapest path of every lane from its last stage to its first."""
    stages, _, lanes = choices.shape
    levels = torch.empty((stages, lanes), dtype=torch.int32, device=cost.device)
    quantisers = torch.empty((stages, lanes), dtype=torch.uint8, device=cost.device)
    state = cost.argmin(0)
    for t in range(stages - 1, -1, -1):
        parity = survivors[t].gather(0, state[None])[0].long()
        state = before[parity, state]
        quantiser = state & 1
        levels[t] = choices[t].gather(0, (2 * quantiser + parity)[None])[0]
        quantisers[t] = quantiser.to(torch.uint8)
    return levels.cpu(), quantisers.cpu()
