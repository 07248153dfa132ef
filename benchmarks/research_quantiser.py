"""Quantisers to compare: scalar ones and trellises of any size, with tables fitted to each of them.

This is a copy of adaptzip/adz/coding/trellis.py that takes its constants as arguments, and nothing in the package uses
it. Numbers are in units of the step. Level k stands for k under a scalar quantiser; under a trellis it stands for 2k
or 2k - sign(k), as the state says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gamma
from scipy.stats import gennorm
from torch import Tensor

PARITY_CHECKS = {
    4: (0o5, 0o2),
    8: (0o13, 0o04),
    16: (0o23, 0o04),
    32: (0o45, 0o10),
    64: (0o103, 0o024),
    128: (0o235, 0o126),
}
"""h0 and h1 of Ungerboeck's codes for one dimension by number of states (1987, part II, table I)."""
ALL_SHAPES = (0.6, 1.0, 1.5, 2.0, 3.0, 8.0)
"""Exponents of the generalised Gaussian: 1 is Laplace, 2 is Gaussian."""
STEPS_PER_OCTAVE = 6
SCALES = 54
SMALLEST_SCALE = 0.25
LEVELS = 255
"""Levels beyond this cost as much as this one; at the errors studied hardly any row comes near it."""
_CHAIN = 128
_ROUNDS = 3
_ROWS, _WIDTH = 16, 1024
_PRIOR = 40.0
_LANES = 4096


@dataclass(frozen=True)
class Quantiser:
    """One way to choose levels.

    Attributes:
        states: of the trellis; 1 is a scalar quantiser.
        weight: of one bit against squared error in units of the step squared.
        threshold: where a scalar quantiser of weight 0 goes from k to k + 1, as a share of the way.
    """

    states: int
    weight: float
    threshold: float = 0.5


@dataclass(frozen=True, eq=False)
class Levels:
    """Levels and quantisers (0 or 1), both (rows, width) int64."""

    level: Tensor
    quantiser: Tensor
    is_scalar: bool

    def values(self) -> Tensor:
        if self.is_scalar:
            return self.level.double()
        return (2 * self.level - self.level.sign() * self.quantiser).double()


@dataclass(frozen=True, eq=False)
class Family:
    """Probability tables of a quantiser: rates (shapes * SCALES, 2, LEVELS + 1), bits of |k| with its sign."""

    rates: Tensor
    shapes: tuple[float, ...]

    def cheapest(self, levels: Levels) -> tuple[Tensor, Tensor]:
        """Bits of each row under its cheapest table, and that table, both (rows,)."""
        columns = LEVELS + 1
        index = levels.level.abs().clamp(max=LEVELS) + columns * levels.quantiser
        counts = torch.stack([torch.bincount(row, minlength=2 * columns) for row in index]).double()
        bits, table = (counts @ self.rates.reshape(-1, 2 * columns).double().T).min(1)
        return bits, table

    def nearest(self, rows: Tensor) -> Tensor:
        """The table expected to suit each row before it is quantised: the Gaussian one of its deviation."""
        deviation = rows.double().square().mean(1).sqrt().clamp(min=1e-9)
        scale = (torch.log2(deviation / SMALLEST_SCALE) * STEPS_PER_OCTAVE).round().clamp(0, SCALES - 1).long()
        return scale + SCALES * self.shapes.index(2.0)


def quantise(blocks: Sequence[Tensor], tables: Sequence[Tensor], quantiser: Quantiser, rates: Tensor) -> list[Levels]:
    """Levels of blocks of rows, each (rows, width); `tables`, each (rows,), index `rates`.

    The lanes of all blocks are searched side by side, but a lane never holds numbers of two blocks.
    """
    if quantiser.states == 1:
        return [_scalar(rows, index, quantiser, rates) for rows, index in zip(blocks, tables, strict=True)]
    dealt = [_deal(rows, index) for rows, index in zip(blocks, tables, strict=True)]
    x, index = (torch.cat(side, 1) for side in zip(*dealt, strict=True))
    parts = zip(torch.split(x, _LANES, 1), torch.split(index, _LANES, 1), strict=True)
    found = [_viterbi(*part, quantiser, rates) for part in parts]
    widths = [side[0].shape[1] for side in dealt]
    level, which = (torch.split(torch.cat(side, 1), widths, 1) for side in zip(*found, strict=True))
    return [
        Levels(_collect(k, rows), _collect(q, rows), is_scalar=False)
        for k, q, rows in zip(level, which, blocks, strict=True)
    ]


def _deal(rows: Tensor, tables: Tensor) -> tuple[Tensor, Tensor]:
    """A block's numbers and their tables, both (stages, lanes), padded with zeros."""
    lanes = -(-rows.numel() // _CHAIN)
    padding = lanes * _CHAIN - rows.numel()
    x = torch.nn.functional.pad(rows.reshape(-1).float(), (0, padding)).reshape(_CHAIN, lanes)
    index = torch.nn.functional.pad(tables.repeat_interleave(rows.shape[1]), (0, padding)).reshape(_CHAIN, lanes)
    return x, index


def _collect(dealt: Tensor, rows: Tensor) -> Tensor:
    return dealt.reshape(-1)[: rows.numel()].reshape(rows.shape)


def _scalar(rows: Tensor, tables: Tensor, quantiser: Quantiser, rates: Tensor) -> Levels:
    size = rows.abs().float()
    if quantiser.weight == 0:
        best = torch.floor(size + 1 - quantiser.threshold)
    else:
        bits = quantiser.weight * rates[tables, 0]
        near = size.floor()
        options = torch.stack([torch.zeros_like(near), (near - 1).clamp(min=0), near, near + 1])
        price = torch.stack([bits.gather(1, option.long().clamp(max=LEVELS)) for option in options])
        best = options.gather(0, ((size - options).square() + price).argmin(0, keepdim=True))[0]
    level = (best * rows.sign()).long()
    return Levels(level, torch.zeros_like(level), is_scalar=True)


def _viterbi(x: Tensor, tables: Tensor, quantiser: Quantiser, rates: Tensor) -> tuple[Tensor, Tensor]:
    """Levels and quantisers of the cheapest paths, both (stages, lanes)."""
    before = _states_before(quantiser.states)
    stages, lanes = x.shape
    flat, offset = (quantiser.weight * rates).reshape(-1), tables * 2 * (LEVELS + 1)
    cost = torch.full((quantiser.states, lanes), torch.inf)
    cost[0] = 0.0
    choices = torch.empty((stages, 4, lanes), dtype=torch.int16)
    survivors = torch.empty((stages, quantiser.states, lanes), dtype=torch.bool)
    for t in range(stages):
        branch = _branch_costs(x[t], offset[t], flat, choices[t]).reshape(2, 2, 1, lanes)
        even = cost[before[0]].reshape(2, -1, lanes) + branch[:, 0]
        odd = cost[before[1]].reshape(2, -1, lanes) + branch[:, 1]
        survivors[t] = (odd < even).reshape(quantiser.states, lanes)
        cost = torch.minimum(even, odd).reshape(quantiser.states, lanes)
    state = cost.argmin(0)
    level, which = torch.empty((stages, lanes), dtype=torch.int64), torch.empty((stages, lanes), dtype=torch.int64)
    for t in range(stages - 1, -1, -1):
        parity = survivors[t].gather(0, state[None])[0].long()
        state = before[parity, state]
        which[t] = state & 1
        level[t] = choices[t].gather(0, (2 * which[t] + parity)[None])[0]
    return level, which


def _branch_costs(x: Tensor, offset: Tensor, flat: Tensor, choice: Tensor) -> Tensor:
    """Costs (4, lanes) by 2 * quantiser + parity of the level; the levels go to `choice`.

    The nearest level and the one on the number's other side have different parities; zero is tried beside the even one.
    """
    size = x.abs()
    costs = torch.empty((4, len(x)))
    for q in (0, 1):
        base = offset + q * (LEVELS + 1)
        middle = (size + q) / 2
        near = middle.round()
        far = torch.where(middle < near, near - 1, near + 1)
        is_even = near.remainder(2) == 0
        even, odd = torch.where(is_even, near, far), torch.where(is_even, far, near)
        even_cost, zero_cost = _cost(size, even, q, base, flat), size.square() + flat[base]
        costs[2 * q], costs[2 * q + 1] = torch.minimum(even_cost, zero_cost), _cost(size, odd, q, base, flat)
        choice[2 * q], choice[2 * q + 1] = torch.where(zero_cost < even_cost, 0.0, even) * x.sign(), odd * x.sign()
    return costs


def _cost(size: Tensor, level: Tensor, q: int, base: Tensor, flat: Tensor) -> Tensor:
    value = 2 * level - q * (level > 0)
    return (size - value).square() + flat[base + level.clamp(max=LEVELS).long()]


@cache
def _states_before(states: int) -> Tensor:
    """(2, states): the state before each state, by the parity of the level between them."""
    h0, h1 = PARITY_CHECKS[states]
    state = np.arange(states)
    before = torch.empty((2, states), dtype=torch.int64)
    for parity in (0, 1):
        following = (state >> 1) ^ (state & 1) * (h0 >> 1) ^ parity * (h1 >> 1)
        before[parity, torch.from_numpy(following)] = torch.from_numpy(state)
    return before


@cache
def fit_family(quantiser: Quantiser, shapes: tuple[float, ...] = ALL_SHAPES) -> Family:
    """Tables of a quantiser: counts of its levels on random rows, over rounds in which both settle."""
    generator = np.random.default_rng(0)
    units = [_unit_rows(shape, generator) for shape in shapes]
    scales = [SMALLEST_SCALE * 2 ** (scale / STEPS_PER_OCTAVE) for scale in range(SCALES)]
    rows = torch.cat([unit * scale for unit in units for scale in scales])
    tables = torch.arange(len(shapes) * SCALES).repeat_interleave(_ROWS)
    prior = np.stack([_prior(shape, scale, quantiser.states == 1) for shape in shapes for scale in scales])
    rates = _to_rates(prior)
    for _ in range(_ROUNDS):
        (levels,) = quantise([rows], [tables], quantiser, rates)
        rates = _to_rates(_count(levels, tables, len(prior)) + _PRIOR * prior)
    return Family(rates, shapes)


def _unit_rows(shape: float, generator: np.random.Generator) -> Tensor:
    sample = gennorm.rvs(shape, size=(_ROWS, _WIDTH), random_state=generator)
    return torch.from_numpy(sample / np.sqrt(gamma(3 / shape) / gamma(1 / shape))).float()


def _prior(shape: float, scale: float, is_scalar: bool) -> NDArray[np.float64]:
    """(2, LEVELS + 1): probability of |k|, both signs together, when every number goes to its nearest value."""
    spread = scale / np.sqrt(gamma(3 / shape) / gamma(1 / shape))
    level = np.arange(LEVELS + 2)
    rows = []
    for q in (0, 1):
        value = level if is_scalar else 2 * level - q * (level > 0)
        tail = 2 * gennorm.sf((value[1:] + value[:-1]) / 2, shape, scale=spread)
        rows.append(np.concatenate([[1 - tail[0]], tail[:-1] - tail[1:]]))
    return np.array(rows)


def _count(levels: Levels, tables: Tensor, number: int) -> NDArray[np.float64]:
    columns = LEVELS + 1
    index = (2 * tables[:, None] + levels.quantiser) * columns + levels.level.abs().clamp(max=LEVELS)
    return torch.bincount(index.reshape(-1), minlength=2 * number * columns).reshape(number, 2, columns).numpy()


def _to_rates(counts: NDArray[np.float64]) -> Tensor:
    """Bits of each |k|, one more for the sign of those that have one."""
    weight = counts + 1e-4
    bits = -np.log2(weight / weight.sum(-1, keepdims=True))
    bits[..., 1:] += 1
    return torch.from_numpy(bits).float()
