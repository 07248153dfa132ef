"""Choosing bank vectors and weights for given rows: the nearest vector, or a searched mixture with its best weights.

All work is cut into blocks that stay in a processor's cache or a small share of a GPU's memory, so that memory does
not grow with the number of pieces times the size of the bank.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from adaptzip.core.workers import parallel_map
from adaptzip.methods._banks.codes import Codes, cut, on_levels, ordered
from adaptzip.methods._banks.mixing import Mixture, mix

_BLOCK = {"cpu": 2**19, "cuda": 2**27}
"""Numbers in a block of products of pieces with vectors."""
_MIXED_BLOCK = {"cpu": 2**21, "cuda": 2**27}
_BLOCKS = 8
"""Blocks that a worker takes at once."""


def choose_codes(
    bank: Tensor, rows: Tensor, k: int, levels: int | None = None, grams: Mapping[int, Tensor] | None = None
) -> Codes:
    """Codes of rows (..., width) with small squared error; for k = 1 it is the smallest.

    Args:
        bank: (h, length), h >= k.
        levels: weights are multiples of 1 / levels; None leaves them free.
        grams: `grams_of` this bank and width, where many rows are coded one after another.
    """
    pieces, rest = cut(rows, bank.shape[1])
    known = grams_of(bank, rows.shape[-1], k) if grams is None else grams
    codes = _choose_pieces(bank, pieces, k, levels, known)
    if rest is None:
        return codes
    last = _choose_pieces(bank[:, : rest.shape[-1]], rest[..., None, :], k, levels, known)
    return Codes(torch.cat([codes.indices, last.indices], -2), torch.cat([codes.weights, last.weights], -2))


def grams_of(bank: Tensor, width: int, k: int) -> dict[int, Tensor]:
    """Products (h, h) of a bank's vectors, whole and cut to what rows of `width` leave, by length. {} for k = 1."""
    lengths = {length for length in (bank.shape[1], width % bank.shape[1]) if length and k > 1}
    return {length: bank[:, :length] @ bank[:, :length].T for length in lengths}


def _choose_pieces(bank: Tensor, pieces: Tensor, k: int, levels: int | None, grams: Mapping[int, Tensor]) -> Codes:
    shape = (*pieces.shape[:-1], k)
    if pieces.numel() == 0:
        return Codes(pieces.new_zeros(shape, dtype=torch.int64), pieces.new_zeros(shape))
    flat = pieces.reshape(-1, bank.shape[1])
    codes = (_nearest(bank, flat) if k == 1 else _mixtures(bank, grams[bank.shape[1]], flat, k)).reshape(shape)
    return ordered(codes) if levels is None else on_levels(codes, levels)


def _nearest(bank: Tensor, pieces: Tensor) -> Codes:
    half, rows = bank.square().sum(1) / 2, _rows(_BLOCK, bank)

    def nearest(some: Tensor) -> Tensor:
        blocks = torch.split(some, rows)
        return torch.cat([torch.addmm(half, part, bank.T, alpha=-1).argmin(1, keepdim=True) for part in blocks])

    indices = torch.cat(list(parallel_map(nearest, torch.split(pieces, _BLOCKS * rows), device=bank.device)))
    return Codes(indices, torch.ones_like(indices, dtype=bank.dtype))


def _mixtures(bank: Tensor, gram: Tensor, pieces: Tensor, k: int) -> Codes:
    def mixed(part: Tensor) -> Mixture:
        return mix(gram, part @ bank.T, k)

    found = list(parallel_map(mixed, torch.split(pieces, _rows(_MIXED_BLOCK, bank)), device=bank.device))
    return Codes(torch.cat([part.chosen for part in found]), torch.cat([part.weights for part in found]))


def _rows(block: dict[str, int], bank: Tensor) -> int:
    return max(1, block.get(bank.device.type, 2**19) // len(bank))
