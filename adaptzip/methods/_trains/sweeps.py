"""Sweeps over trains in batches: contraction, and alternating least squares core by core.

Holtz, Rohwedder and Schneider, The alternating linear scheme for tensor optimization in the tensor train format, SIAM
Journal on Scientific Computing 34 (2012): with all other cores orthonormal, the best core is a contraction.
Cores are (n, r_{i-1}, k_i, r_i) with r_0 = 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def contract(cores: Sequence[Tensor]) -> Tensor:
    """(n, k_1 * ... * k_d, r_d): the matrix that a train with an open last bond stands for."""
    whole = cores[0].flatten(1, 2)
    for core in cores[1:]:
        whole = (whole @ core.flatten(2)).reshape(len(core), -1, core.shape[3])
    return whole


def from_right(tensors: Tensor, cores: Sequence[Tensor]) -> Tensor:
    """(n, rest, r_i): `tensors` (n, ..., k_{i+1} * ... * k_d) times the cores after bond i, of which r_d is 1."""
    found = tensors.reshape(len(tensors), -1, 1)
    for core in reversed(cores):
        flat = core.flatten(2)
        found = found.reshape(len(core), -1, flat.shape[2]) @ flat.mT
    return found


def sweep(tensors: Tensor, cores: Sequence[Tensor]) -> list[Tensor]:
    """One sweep of alternating least squares, to the left and back; it never increases the error.

    Args:
        tensors: (n, N), row-major.
        cores: of a train with r_d = 1, all but the last with orthonormal columns; they are left as they are.

    Returns:
        New cores of the same shapes and kind: the last carries the norm.
    """
    right = sweep_left(tensors, cores)
    n, left = len(tensors), list[Tensor]()
    state = tensors.unsqueeze(1)
    for i in range(len(cores) - 1):
        k = cores[i].shape[2]
        state = state.reshape(n, state.shape[1] * k, -1)
        centre = from_right(state, right[i:])
        columns = torch.linalg.qr(centre.reshape(n, state.shape[1], -1))[0]
        left.append(columns.reshape(n, -1, k, columns.shape[2]))
        state = columns.mT @ state
    return [*left, state.reshape(cores[-1].shape)]


def sweep_left(tensors: Tensor, cores: Sequence[Tensor], *, sorted_bonds: bool = False) -> list[Tensor]:
    """Cores 2 to d with orthonormal rows, each fitted given the cores on its left and its right.

    Args:
        tensors, cores: as for `sweep`.
        sorted_bonds: turn each bond so that its directions fall in energy. The energies hold once the cores on the
            left are turned alike, as those are that are fitted to these rows next.
    """
    states = [tensors.unsqueeze(1)]
    for core in cores[:-1]:
        states.append(core.flatten(1, 2).mT @ states[-1].reshape(len(core), core.shape[1] * core.shape[2], -1))
    right: list[Tensor] = []
    for i in range(len(cores) - 1, 0, -1):
        n, r, k, _ = cores[i].shape
        centre = from_right(states[i].reshape(n, r * k, -1), right).reshape(n, r, -1)
        rows = torch.linalg.svd(centre, full_matrices=False)[2] if sorted_bonds else torch.linalg.qr(centre.mT)[0].mT
        right.insert(0, rows.reshape(n, rows.shape[1], k, -1))
    return right
