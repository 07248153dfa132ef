"""Choosing bank vectors and weights for given rows: the nearest vector, or a searched subset with its best weights.

All work is cut into blocks that stay in a processor's cache or a small share of a GPU's memory, so that memory does
not grow with the number of pieces times the size of the bank.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from adaptzip.banks.codes import Codes, cut, on_levels, ordered

_BLOCK = {"cpu": 2**19, "cuda": 2**27}
"""Numbers in a block of piece-by-vector products."""
_STARTS = 2
"""Nearest vectors from which the search for a mixture starts."""


@dataclass(frozen=True, eq=False)
class _Mixture:
    """For n pieces t: vectors (n, m), their weights (n, m), and |m|^2 - 2 m.t (n,) of the mixture m they make."""

    chosen: Tensor
    weights: Tensor
    value: Tensor


def choose(bank: Tensor, rows: Tensor, k: int, levels: int | None = None) -> Codes:
    """Codes of rows (..., width) with small squared error; for k = 1 it is the smallest.

    Args:
        bank: (h, length), h >= k.
        levels: weights are multiples of 1 / levels; None leaves them free.
    """
    pieces, rest = cut(rows, bank.shape[1])
    codes = _choose_pieces(bank, pieces, k, levels)
    if rest is None:
        return codes
    last = _choose_pieces(bank[:, : rest.shape[-1]], rest[..., None, :], k, levels)
    return Codes(torch.cat([codes.indices, last.indices], -2), torch.cat([codes.weights, last.weights], -2))


def _choose_pieces(bank: Tensor, pieces: Tensor, k: int, levels: int | None) -> Codes:
    flat = pieces.reshape(-1, bank.shape[1])
    block = max(1, _BLOCK.get(flat.device.type, 2**19) // len(bank))
    gram = bank @ bank.T if k > 1 else None
    parts = [_choose_block(bank, gram, part, k) for part in torch.split(flat, block)] if len(flat) else []
    indices = torch.cat([p.indices for p in parts]) if parts else flat.new_zeros((0, k), dtype=torch.int64)
    weights = torch.cat([p.weights for p in parts]) if parts else flat.new_zeros((0, k))
    shape = (*pieces.shape[:-1], k)
    codes = Codes(indices.reshape(shape), weights.reshape(shape))
    return ordered(codes) if levels is None else on_levels(codes, levels)


def _choose_block(bank: Tensor, gram: Tensor | None, pieces: Tensor, k: int) -> Codes:
    half = bank.square().sum(1) / 2
    if gram is None:
        nearest = torch.addmm(half, pieces, bank.T, alpha=-1).argmin(1, keepdim=True)
        return Codes(nearest, torch.ones_like(nearest, dtype=bank.dtype))
    products = pieces @ bank.T
    first = (half - products).topk(min(_STARTS, len(bank)), dim=1, largest=False).indices
    best = _searched(gram, products, first[:, :1], k)
    for start in range(1, first.shape[1]):
        best = _best_of(best, _searched(gram, products, first[:, start : start + 1], k))
    return Codes(best.chosen, best.weights)


def _searched(gram: Tensor, products: Tensor, chosen: Tensor, k: int) -> _Mixture:
    """Vectors joined one by one to a first, and then each exchanged once where another serves better."""
    while chosen.shape[1] < k:
        chosen = _joined(gram, products, chosen)
    best = mixture(gram, products, chosen)
    for slot in range(k):
        others = torch.cat([best.chosen[:, :slot], best.chosen[:, slot + 1 :]], 1)
        best = _best_of(best, mixture(gram, products, _joined(gram, products, others)))
    return best


def _best_of(old: _Mixture, new: _Mixture) -> _Mixture:
    better = new.value < old.value
    return _Mixture(
        torch.where(better[:, None], new.chosen, old.chosen),
        torch.where(better[:, None], new.weights, old.weights),
        torch.where(better, new.value, old.value),
    )


def _joined(gram: Tensor, products: Tensor, chosen: Tensor) -> Tensor:
    """Chosen vectors (n, m) and one more: that whose segment from their best mixture comes nearest to the piece."""
    weights = mixture(gram, products, chosen).weights
    square = gram.diagonal()
    toward = gram[chosen[:, 0]] * weights[:, :1]
    for term in range(1, chosen.shape[1]):
        toward.addcmul_(gram[chosen[:, term]], weights[:, term, None])
    own = (toward.gather(1, chosen) * weights).sum(1, keepdim=True)
    aim = (products.gather(1, chosen) * weights).sum(1, keepdim=True)
    # With m the mixture, v a vector and t the piece: |v - m|^2, and (v - m).(t - m).
    length = (square - 2 * toward + own).clamp_(min=torch.finfo(gram.dtype).tiny)
    slope = products - toward
    slope.sub_(aim - own).clamp_(min=0)
    share = (slope / length).clamp_(max=1)
    gain = share.mul_(2 * slope - share * length).scatter_(1, chosen, -1.0)
    return torch.cat([chosen, gain.argmax(1, keepdim=True)], 1)


def mixture(gram: Tensor, products: Tensor, chosen: Tensor) -> _Mixture:
    """The convex weights of chosen vectors that come nearest to each piece.

    Every face of the simplex is tried: on each the best weights without regard to sign solve a linear system, and the
    best of those that are not negative is the optimum.

    Args:
        gram: (h, h) inner products of bank vectors.
        products: (n, h) of pieces with bank vectors.
        chosen: (n, m), no two alike in a row.
    """
    G = gram[chosen[:, :, None], chosen[:, None, :]]
    g = products.gather(1, chosen)
    best, lowest = torch.zeros_like(g), torch.full_like(g[:, 0], float("inf"))
    for size in range(1, chosen.shape[1] + 1):
        for face in combinations(range(chosen.shape[1]), size):
            found = torch.zeros_like(g)
            found[:, face] = _on_face(G[:, face][:, :, face], g[:, face])
            value = ((G @ found[..., None])[..., 0] * found).sum(1) - 2 * (g * found).sum(1)
            better = (value < lowest) & (found >= 0).all(1)
            best = torch.where(better[:, None], found, best)
            lowest = torch.where(better, value, lowest)
    return _Mixture(chosen, best, lowest)


def _on_face(G: Tensor, g: Tensor) -> Tensor:
    """Weights that add up to 1 and minimise w.G w - 2 g.w: the first stands for 1 minus the others."""
    size = g.shape[1]
    if size == 1:
        return torch.ones_like(g)
    # With w_0 = 1 - sum of the others, H = D G D^T and the right-hand side follow from differences to vector 0.
    H = G[:, 1:, 1:] - G[:, 1:, :1] - G[:, :1, 1:] + G[:, :1, :1]
    right = g[:, 1:] - g[:, :1] - G[:, 1:, 0] + G[:, :1, 0]
    if size == 2:
        others = right / H[:, 0].clamp(min=torch.finfo(g.dtype).tiny)
    else:
        ridge = H.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * 1e-6 + torch.finfo(g.dtype).tiny
        eye = torch.eye(size - 1, dtype=g.dtype, device=g.device)
        others = torch.linalg.solve_ex(H + ridge * eye, right[..., None])[0][..., 0]
    return torch.cat([1 - others.sum(1, keepdim=True), others], 1)
