"""Chains that stand for low-rank updates, fitted to the updates' singular factors without the dense product.

An update U S V^T is B W^T with B = U S and W = V. Its chain has two sides: U' (out, r), cores with orthonormal columns
over the modes of the outputs, and V' (in, r), likewise over those of the inputs, whose last core carries the norm; r is
the middle bond. Given one side, the update projected on it is a matrix for the other, so that alternating least
squares over all cores runs side after side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.methods._trains.chains import Half, Shape
from adaptzip.methods._trains.decompose import tt_svd
from adaptzip.methods._trains.sweeps import contract, from_right, sweep, sweep_left

_RTOL = 1e-5
"""Directions whose share of a Gram matrix is below this are taken for rounding."""


@dataclass(frozen=True, eq=False)
class Chain:
    """n chains of one shape: cores (n, r_{i-1}, k_i, r_i) of both sides, the middle bond last.

    All columns of all cores are orthonormal but those of the last core of `width`, which carries the norm.
    """

    out: tuple[Tensor, ...]
    width: tuple[Tensor, ...]

    @property
    def energy(self) -> Tensor:
        """(n,) squared norms, float64. Of a fitted chain it is also what the update's energy exceeds its error by."""
        return self.width[-1].double().square().sum((1, 2, 3))


def fit_chain(B: Tensor, W: Tensor, shape: Shape, *, sweeps: int = 0) -> Chain:
    """The chain of each update B W^T: TT-SVD, then `sweeps` rounds of alternating least squares.

    Args:
        B: (n, out, r).
        W: (n, in, r) with orthonormal columns.
    """
    n, _, r = B.shape
    middle = shape.out.ranks[-1]
    out = tt_svd(B.reshape(n, -1), (*shape.out.modes, r), shape.out.ranks)[:-1]
    X = W @ (B.mT @ contract(out))
    width = tt_svd(X.reshape(n, -1), _closed_modes(shape.width), shape.width.ranks[:-1])
    for _ in range(sweeps):
        X = B @ (W.mT @ contract(_orthonormal(width, middle)))
        out = _orthonormal(sweep(X.reshape(n, -1), _closed(out)), middle)
        X = W @ (B.mT @ contract(out))
        width = sweep(X.reshape(n, -1), width)
    return Chain(tuple(out), tuple(_opened(width, middle)))


@dataclass(frozen=True, eq=False)
class Frame:
    """What cores are fitted against one after the other, in chains whose bonds are turned to singular directions.

    Attributes:
        projected: (n, out, middle), the update times the basis of the inputs' side.
        out: cores 2 to d of the outputs' side, and the turn of the middle bond, all with orthonormal rows.
        width: the inputs' side of the chain.
    """

    projected: Tensor
    out: tuple[Tensor, ...]
    width: tuple[Tensor, ...]


def frame_of(B: Tensor, W: Tensor, chain: Chain) -> Frame:
    """The frame of each fitted chain; B and W as for `fit_chain`."""
    n, middle = len(B), chain.width[-1].shape[3]
    X = B @ (W.mT @ contract(_orthonormal(_closed(chain.width), middle)))
    turn = X.new_zeros(n, middle, middle, 1)
    out = sweep_left(X.reshape(n, -1), [*chain.out, turn], sorted_bonds=True)
    return Frame(X, tuple(out), chain.width)


def right_rows(tensors: Tensor, cores: Sequence[Tensor]) -> list[Tensor]:
    """Cores 2 to d of the inputs' side with orthonormal rows, as `Frame.out`, the middle bond in the last.

    Args:
        tensors: (n, in, middle): the update times the decoded basis of the outputs' side.
        cores: that side of the fitted chain.
    """
    return sweep_left(tensors.reshape(len(tensors), -1), _closed(cores), sorted_bonds=True)


def next_core(tensors: Tensor, done: Sequence[Tensor], right: Sequence[Tensor], mode: int) -> Tensor:
    """(n, r_{i-1} * k_i, r_i): the core that fits best between the cores before it and those after it.

    Args:
        tensors: (n, width, any): what the whole side stands for.
        done: the cores before it, as they will be decoded; they need not be orthonormal.
        right: the cores after it, with orthonormal rows; () for the side's last.
        mode: k_i.
    """
    n = len(tensors)
    state = tensors.reshape(n, 1, -1)
    if done:
        left = contract(done)
        state = pseudo_inverse(left) @ tensors.reshape(n, left.shape[1], -1)
    rows = state.shape[1] * mode
    return from_right(state.reshape(n, rows, -1), right).reshape(n, rows, -1)


def pseudo_inverse(columns: Tensor) -> Tensor:
    """(n, r, p), of (n, p, r): by the small Gram matrix, so that columns that are zero or alike do no harm."""
    gram: Tensor = torch.linalg.pinv((columns.mT @ columns).double(), rtol=_RTOL, hermitian=True)
    return gram.to(columns.dtype) @ columns.mT


def _closed_modes(half: Half) -> tuple[int, ...]:
    """The modes with the middle bond as a part of the last."""
    return (*half.modes[:-1], half.modes[-1] * half.ranks[-1])


def _closed(cores: Sequence[Tensor]) -> list[Tensor]:
    return [*cores[:-1], cores[-1].flatten(2).unsqueeze(3)]


def _opened(cores: Sequence[Tensor], middle: int) -> list[Tensor]:
    n, r = cores[-1].shape[:2]
    return [*cores[:-1], cores[-1].reshape(n, r, -1, middle)]


def _orthonormal(cores: Sequence[Tensor], middle: int) -> list[Tensor]:
    """An opened side whose last core was replaced by an orthonormal basis of its columns."""
    *first, last = _opened(cores, middle)
    columns = torch.linalg.qr(last.flatten(1, 2))[0]
    return [*first, columns.reshape(last.shape)]
