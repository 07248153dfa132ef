"""One module of a fit: cut out of its group, and with its codes as they are stored."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptzip.methods._banks.codes import Codes, decode
from adaptzip.methods._banks.factors import Coded, Group, squared_errors


def single(group: Group, i: int, rank: int) -> Group:
    """The i-th module of a group, alone."""
    part = slice(i, i + 1)
    return Group((group.names[i],), group.U[part], group.S[part], group.V[part], group.weight[part], rank)


def compact(coded: Coded, i: int) -> Coded:
    """The i-th module's codes, (rank, pieces, k), small and on the CPU."""
    return Coded(*(Codes(side.indices[i].to("cpu", torch.int32), side.weights[i].cpu()) for side in (coded.A, coded.B)))


def no_codes(k: int) -> Coded:
    """Compact codes of a module without any row."""
    empty = Codes(torch.zeros((0, 0, k), dtype=torch.int32), torch.zeros((0, 0, k)))
    return Coded(empty, empty)


def expanded(coded: Coded, rank: int, device: torch.device) -> Coded:
    """The first rows of compact codes, (1, rank, pieces, k), to compute with."""
    return Coded(
        *(
            Codes(side.indices[None, :rank].to(device, torch.int64), side.weights[None, :rank].to(device))
            for side in (coded.A, coded.B)
        )
    )


def stored_weights(codes: Codes, levels: int) -> Tensor:
    """All weights but the last of every piece in multiples of 1 / levels, (pieces, k - 1), int64."""
    return (codes.weights[..., :-1] * levels).round().long().flatten(0, -2)


def from_stored(indices: Tensor, weights: Tensor, rank: int) -> Codes:
    """Codes (1, rank, pieces, k) from stored rows (rank * pieces, k) and (rank * pieces, k - 1).

    The last weight is what the others leave of 1; all are exact in float32.
    """
    shape = (1, rank, len(indices) // rank, indices.shape[1])
    whole = torch.cat([weights.float(), 1 - weights.sum(1, keepdim=True, dtype=torch.float32)], 1)
    return Codes(indices.reshape(shape), whole.reshape(shape))


def coded_error(group: Group, bank: Tensor, coded: Coded) -> float:
    """Squared error of a module alone, times its weight."""
    if group.rank == 0:
        return float(group.energy[0] * group.weight[0])
    A, B = decode(bank, coded.A, group.V.shape[1]), decode(bank, coded.B, group.U.shape[1])
    return float(squared_errors(group, A, B)[0] * group.weight[0])
