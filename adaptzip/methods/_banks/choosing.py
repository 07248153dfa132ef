"""Choosing bank vectors and weights for given rows: the nearest vector, or a searched mixture with its best weights.

All work is cut into blocks that stay in a processor's cache or a small share of a GPU's memory, so that memory does
not grow with the number of pieces times the size of the bank.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from adaptzip.core import compiled
from adaptzip.core.workers import parallel_map
from adaptzip.methods._banks.codes import Codes, cut, on_levels, ordered
from adaptzip.methods._banks.mixing import mix
from adaptzip.methods._banks.sections import Section, Sections, nearest_in, sections

_BLOCK = {"cpu": 2**19, "cuda": 2**27}
"""Numbers in a block of products of pieces with vectors."""
_MIXED_BLOCK = {"cpu": 2**18, "cuda": 2**27}
_BLOCKS = 8
"""Blocks that a worker takes at once."""
_LOOKED_FOR = 2**12
"""Pieces that a worker looks for in a tree at once."""


def choose_codes(bank: Tensor, rows: Tensor, k: int, levels: int | None = None, known: Sections | None = None) -> Codes:
    """Codes of rows (..., width) with small squared error; for k = 1 it is the smallest.

    Args:
        bank: (h, length), h >= k.
        levels: weights are multiples of 1 / levels; None leaves them free.
        known: `sections` of this bank, width and k, where many rows are coded one after another.
    """
    pieces, rest = cut(rows, bank.shape[1])
    known = sections(bank, (rows.shape[-1],), k) if known is None else known
    parts = [pieces] if pieces.numel() or rest is None else []
    parts += [] if rest is None else [rest[..., None, :]]
    found = [_choose_pieces(known[part.shape[-1]], part, k, levels) for part in parts]
    if len(found) == 1:
        return found[0]
    return Codes(torch.cat([part.indices for part in found], -2), torch.cat([part.weights for part in found], -2))


def _choose_pieces(section: Section, pieces: Tensor, k: int, levels: int | None) -> Codes:
    shape = (*pieces.shape[:-1], k)
    if pieces.numel() == 0:
        return Codes(pieces.new_zeros(shape, dtype=torch.int64), pieces.new_zeros(shape))
    flat = pieces.reshape(-1, pieces.shape[-1])
    codes = _nearest(section, flat) if section.gram is None else _mixtures(section.vectors, section.gram, flat, k)
    codes = codes.reshape(shape)
    return ordered(codes) if levels is None else on_levels(codes, levels)


def _nearest(section: Section, pieces: Tensor) -> Codes:
    rows = _rows(_BLOCK, section.vectors)
    portion = _BLOCKS * rows if section.tree is None else _LOOKED_FOR
    find = partial(_by_products, section.vectors, rows) if section.tree is None else partial(nearest_in, section.tree)
    found = parallel_map(find, torch.split(pieces, portion), device=pieces.device)
    indices = torch.cat(list(found))[:, None]
    return Codes(indices, torch.ones_like(indices, dtype=pieces.dtype))


def _by_products(bank: Tensor, rows: int, pieces: Tensor) -> Tensor:
    """Places (n,) of the nearest vectors, by products of some rows at a time with all of them."""
    half = bank.square().sum(1) / 2
    return torch.cat([torch.addmm(half, part, bank.T, alpha=-1).argmin(1) for part in torch.split(pieces, rows)])


def _mixtures(bank: Tensor, gram: Tensor, pieces: Tensor, k: int) -> Codes:
    on_cpu = bank.device.type == "cpu"
    quick = k == 2 and on_cpu and compiled.worthwhile(len(pieces) * len(bank))

    def mixed(part: Tensor) -> Codes:
        products = part @ bank.T
        if quick:
            return _pairs(gram, products)
        found = mix(gram, products, k)
        return Codes(found.chosen, found.weights)

    found = list(parallel_map(mixed, torch.split(pieces, _rows(_MIXED_BLOCK, bank)), device=bank.device))
    return Codes(torch.cat([part.indices for part in found]), torch.cat([part.weights for part in found]))


def _pairs(gram: Tensor, products: Tensor) -> Codes:
    """`mix` for two vectors on a CPU, compiled."""
    from adaptzip.methods._banks.kernels.mixing import pairs

    codes = Codes(products.new_empty((len(products), 2), dtype=torch.int64), products.new_empty(len(products), 2))
    pairs(products.numpy(), gram.numpy(), codes.indices.numpy(), codes.weights.numpy())
    return codes


def _rows(block: dict[str, int], bank: Tensor) -> int:
    return max(1, block.get(bank.device.type, 2**19) // len(bank))
