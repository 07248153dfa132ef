"""Convex mixtures of k vectors that come nearest to given pieces.

Pairs are searched among the whole bank (on a CPU by `kernels.mixing`), larger mixtures among a short list of
vectors for each piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

_LISTED = 96
"""Vectors that are looked at for one piece where more than two are mixed."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """For n pieces t: vectors (n, m), their weights (n, m), and |m|^2 - 2 m.t (n,) of the mixture m they make."""

    chosen: Tensor
    weights: Tensor
    value: Tensor


@dataclass(frozen=True, eq=False)
class _Lists:
    """The vectors that are looked at for n pieces.

    Attributes:
        gram: (h, h), inner products of all vectors.
        listed: (n, l), the vectors in each list.
        products: (n, l), of the piece with each.
        squares: (n, l), of each with itself.
    """

    gram: Tensor
    listed: Tensor
    products: Tensor
    squares: Tensor


def mix(gram: Tensor, products: Tensor, k: int) -> Mixture:
    """A good mixture of k different vectors for each piece, its weights the best there are.

    Args:
        gram: (h, h) inner products of the bank's vectors, h >= k.
        products: (n, h) of pieces with vectors.
    """
    lists = _whole(gram, products) if k == 2 else _shortened(gram, products, k)
    near = lists.products - lists.squares / 2
    first = near.argmax(1, keepdim=True)
    second = near.scatter_(1, first, -float("inf")).argmax(1, keepdim=True)
    best = _better(_searched(lists, first, k), _searched(lists, second, k))
    return Mixture(lists.listed.gather(1, best.chosen), best.weights, best.value)


def _whole(gram: Tensor, products: Tensor) -> _Lists:
    """All vectors for each piece."""
    listed = torch.arange(len(gram), device=gram.device).expand(products.shape)
    return _Lists(gram, listed, products, gram.diagonal().expand(products.shape))


def _shortened(gram: Tensor, products: Tensor, k: int) -> _Lists:
    square = gram.diagonal()
    # A vector with weight one half, the others still unknown, is worth t.c - |c|^2 / 4 of the squared error.
    listed = (products - square / 4).topk(min(max(_LISTED, k), len(gram)), dim=1).indices
    return _Lists(gram, listed, products.gather(1, listed), square[listed])


def _searched(lists: _Lists, chosen: Tensor, k: int) -> Mixture:
    """Vectors joined one by one to a first, and then each exchanged once where another serves better."""
    while chosen.shape[1] < k:
        chosen = _joined(lists, chosen)
    best = _weighed(lists, chosen)
    # Of two the second was chosen for the first as it is now.
    for slot in range(k if k > 2 else 1):
        others = torch.cat([best.chosen[:, :slot], best.chosen[:, slot + 1 :]], 1)
        best = _better(best, _weighed(lists, _joined(lists, others)))
    return best


def _better(old: Mixture, new: Mixture) -> Mixture:
    better = new.value < old.value
    return Mixture(
        torch.where(better[:, None], new.chosen, old.chosen),
        torch.where(better[:, None], new.weights, old.weights),
        torch.where(better, new.value, old.value),
    )


def _joined(lists: _Lists, chosen: Tensor) -> Tensor:
    """Places (n, m) and one more: that whose segment from the best mixture of these comes nearest to the piece."""
    mixture = _weighed(lists, chosen)
    rows = [_row(lists, chosen[:, term]) * mixture.weights[:, term, None] for term in range(chosen.shape[1])]
    toward = torch.stack(rows).sum(0)
    own = (toward.gather(1, chosen) * mixture.weights).sum(1, keepdim=True)
    aim = (lists.products.gather(1, chosen) * mixture.weights).sum(1, keepdim=True)
    # With m the mixture, v a vector and t the piece: |v - m|^2, and (v - m).(t - m).
    length = (lists.squares - 2 * toward + own).clamp_(min=torch.finfo(toward.dtype).tiny)
    slope = (lists.products - toward - aim + own).clamp_(min=0)
    share = (slope / length).clamp_(max=1)
    gain = share.mul_(2 * slope - share * length).scatter_(1, chosen, -1.0)
    return torch.cat([chosen, gain.argmax(1, keepdim=True)], 1)


def _row(lists: _Lists, place: Tensor) -> Tensor:
    """(n, l): inner products of one vector of each list with the whole list."""
    return lists.gram[lists.listed.gather(1, place[:, None]), lists.listed]


def _weighed(lists: _Lists, chosen: Tensor) -> Mixture:
    vectors = lists.listed.gather(1, chosen)
    G = lists.gram[vectors[:, :, None], vectors[:, None, :]]
    weights, value = simplex_weights(G, lists.products.gather(1, chosen))
    return Mixture(chosen, weights, value)


def simplex_weights(G: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Weights w (n, m), not negative and adding up to 1, that minimise w.G w - 2 g.w, and its value (n,).

    Every face of the simplex is tried: on each the best weights without regard to sign solve a linear system, and the
    best of those that are not negative is the optimum.

    Args:
        G: (n, m, m) inner products of vectors; g: (n, m) of the vectors with a piece.
    """
    if g.shape[1] <= 2:
        # On a segment the best point is the nearest end, or the foot of the perpendicular between them.
        weights = _on_face(G, g).clamp(0, 1)
        return weights, _value(G, g, weights)
    best, lowest = torch.zeros_like(g), torch.full_like(g[:, 0], float("inf"))
    for size in range(1, g.shape[1] + 1):
        for face in combinations(range(g.shape[1]), size):
            found = torch.zeros_like(g)
            found[:, face] = _on_face(G[:, face][:, :, face], g[:, face])
            value = _value(G, g, found)
            better = (value < lowest) & (found >= 0).all(1)
            best = torch.where(better[:, None], found, best)
            lowest = torch.where(better, value, lowest)
    return best, lowest


def _value(G: Tensor, g: Tensor, weights: Tensor) -> Tensor:
    return ((G * weights[:, None]).sum(2) * weights).sum(1) - 2 * (g * weights).sum(1)


def _on_face(G: Tensor, g: Tensor) -> Tensor:
    """Weights that add up to 1 and minimise w.G w - 2 g.w: the first stands for 1 minus the others."""
    size = g.shape[1]
    if size == 1:
        return torch.ones_like(g)
    # With w_0 = 1 - sum of the others, the system is that of the differences to vector 0.
    H = G[:, 1:, 1:] - G[:, 1:, :1] - G[:, :1, 1:] + G[:, :1, :1]
    right = g[:, 1:] - g[:, :1] - G[:, 1:, 0] + G[:, :1, 0]
    if size == 2:
        others = right / H[:, 0].clamp(min=torch.finfo(g.dtype).tiny)
    else:
        ridge = H.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * 1e-6 + torch.finfo(g.dtype).tiny
        eye = torch.eye(size - 1, dtype=g.dtype, device=g.device)
        others = torch.linalg.solve_ex(H + ridge * eye, right[..., None])[0][..., 0]
    return torch.cat([1 - others.sum(1, keepdim=True), others], 1)
