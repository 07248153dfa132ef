"""Would knowing the neighbours help? What moving a row's table, number by number, by a context would save.

A context is a magnitude expected of a number from numbers decoded before it, relative to its row's deviation. It is
cut into a few classes, and in each class the row's table may move by whole scales; the best move per class is found
on the data itself and costs nothing, so that the savings are upper limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.research_quantiser import LEVELS, SCALES, Family, Levels

_EDGES = torch.tensor((0.35, 0.6, 0.85, 1.15, 1.5, 2.2), dtype=torch.float64)
_MOVES = range(-6, 10)


@dataclass(frozen=True, eq=False)
class CodedRows:
    """The rows of one side ("U" or "V") of one module: levels, the table of each row and its bits."""

    side: str
    levels: Levels
    tables: Tensor
    bits: Tensor


Context = Callable[[Sequence[Tensor], Sequence[CodedRows], int], Tensor]
"""Expected magnitudes (rows, width) of block `index`, given all blocks' relative energies."""


def _earlier_components(energies: Sequence[Tensor], _: Sequence[CodedRows], index: int) -> Tensor:
    energy = energies[index]
    return _expected(energy.cumsum(0) - energy, torch.arange(len(energy))[:, None])


def _left_neighbours(energies: Sequence[Tensor], _: Sequence[CodedRows], index: int) -> Tensor:
    energy = energies[index]
    total = torch.zeros_like(energy)
    total[:, 1:] += energy[:, :-1]
    total[:, 2:] += energy[:, :-2]
    return _expected(total, torch.tensor(2))


def _other_modules(energies: Sequence[Tensor], blocks: Sequence[CodedRows], index: int) -> Tensor:
    """The same position in all other blocks of this width and side, before or after: more than a decoder knows."""
    mine = energies[index]
    others = [
        energy
        for i, energy in enumerate(energies)
        if i != index and energy.shape[1] == mine.shape[1] and blocks[i].side == blocks[index].side
    ]
    total = sum((energy.sum(0) for energy in others), torch.zeros(mine.shape[1], dtype=mine.dtype))
    return _expected(total, torch.tensor(sum(len(energy) for energy in others))).expand_as(mine)


def _expected(total: Tensor, count: Tensor) -> Tensor:
    """Root of a mean energy, drawn to 1 as by one more number of energy 1."""
    return ((total + 1) / (count + 1)).sqrt()


CONTEXTS: dict[str, Context] = {
    "earlier components, same position": _earlier_components,
    "two left neighbours": _left_neighbours,
    "other modules, same position": _other_modules,
}


def saving(blocks: Sequence[CodedRows], family: Family, context: str) -> float:
    """Share of all bits that a context saves."""
    energies = [_relative_energy(block) for block in blocks]
    costs = torch.zeros(len(_EDGES) + 1, len(_MOVES), dtype=torch.float64)
    for index, block in enumerate(blocks):
        classes = torch.bucketize(CONTEXTS[context](energies, blocks, index).contiguous(), _EDGES).reshape(-1)
        for column, move in enumerate(_MOVES):
            bits = _bits_when_moved(block, family, move).reshape(-1)
            costs[:, column] += torch.bincount(classes, weights=bits, minlength=len(costs))
    plain = costs[:, _MOVES.index(0)].sum()
    return float(1 - costs.min(1).values.sum() / plain)


def _relative_energy(block: CodedRows) -> Tensor:
    energy = block.levels.values().square()
    return energy / energy.mean(1, keepdim=True).clamp(min=1e-12)


def _bits_when_moved(block: CodedRows, family: Family, move: int) -> Tensor:
    """Bits of every number when its row's scale is moved."""
    scale = (block.tables % SCALES + move).clamp(0, SCALES - 1)
    table = block.tables // SCALES * SCALES + scale
    size = block.levels.level.abs().clamp(max=LEVELS)
    return family.rates[table[:, None], block.levels.quantiser, size].double()
