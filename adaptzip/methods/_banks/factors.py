"""Updates of equal shape side by side: targets, a gauge to start from, and errors without the dense update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.batching import WORKING_BYTES, group_by_shape
from adaptzip.core.linalg import factored_svd
from adaptzip.core.workers import parallel_map
from adaptzip.methods._banks.choosing import choose_codes
from adaptzip.methods._banks.codes import Codes, decode
from adaptzip.methods._banks.sections import Sections, sections

_PART_BYTES, _PARTS = 2**20, 64
"""Bytes of factors in a group on a CPU, where groups are worked on side by side; more where there are many groups."""


@dataclass(frozen=True, eq=False)
class Side:
    """The updates P Q^T as one factor sees them: it has as many numbers in a row as Q has, the other as P.

    Attributes:
        P: (n, other width, components).
        Q: (n, width, components).
    """

    P: Tensor
    Q: Tensor

    @property
    def width(self) -> int:
        return self.Q.shape[1]


@dataclass(frozen=True, eq=False)
class Group:
    """n updates of one shape, each U S V^T with k components.

    Attributes:
        names: of the modules.
        U: (n, out, k), orthonormal columns; S: (n, k), falling; V: (n, in, k).
        weight: (n,), what each squared error is multiplied by.
        rank: rows of A and B that stand for each of them.
    """

    names: tuple[str, ...]
    U: Tensor
    S: Tensor
    V: Tensor
    weight: Tensor
    rank: int

    @property
    def A(self) -> Side:
        return Side(self.U * self.S[:, None], self.V)

    @property
    def B(self) -> Side:
        return Side(self.V * self.S[:, None], self.U)

    @property
    def energy(self) -> Tensor:
        """|dW|^2 of each, (n,), without weights, float64."""
        return self.S.double().square().sum(1)


@dataclass(frozen=True, eq=False)
class Coded:
    """Codes of a group's rows of A (n, rank, in) and of B transposed (n, rank, out)."""

    A: Codes
    B: Codes


def groups(
    modules: Mapping[str, LoraFactors], ranks: Mapping[str, int], weights: Mapping[str, float], device: torch.device
) -> Iterator[Group]:
    """Modules of a rank of at least 1 in groups of one shape and rank."""
    bytes_ = 4 * sum(module.parameters for module in modules.values())
    most = max(_PART_BYTES, bytes_ // _PARTS) if device.type == "cpu" else WORKING_BYTES
    parts: list[tuple[int, list[str]]] = []
    for rank in sorted(set(ranks.values()) - {0}):
        wanted = {name: module for name, module in modules.items() if ranks[name] == rank}
        parts += [(rank, names) for names in group_by_shape(wanted, working_bytes=most)]

    def group(part: tuple[int, list[str]]) -> Group:
        rank, names = part
        return _group([modules[name] for name in names], names, rank, weights, device)

    return parallel_map(group, parts, device=device)


def _group(
    modules: Sequence[LoraFactors], names: Sequence[str], rank: int, weights: Mapping[str, float], device: torch.device
) -> Group:
    A = torch.stack([module.A.to(device, torch.float32) for module in modules])
    B = torch.stack([module.B.to(device, torch.float32) for module in modules])
    U, S, Vt = factored_svd(A, B, torch.tensor([module.scaling for module in modules], device=device))
    weight = torch.tensor([weights.get(name, 1.0) for name in names], device=device)
    return Group(tuple(names), U, S, Vt.mT.contiguous(), weight, rank)


def start(group: Group) -> tuple[Tensor, Tensor]:
    """Rows of A (n, rank, in) and B (n, rank, out) in the gauge where numbers of both have the same mean square.

    Pieces of both factors then lie in one cloud, which one bank serves best. Where the rank is above the number of
    components, the leading ones are split into equal parts.
    """
    k = group.S.shape[1]
    index = torch.arange(group.rank, device=group.S.device) % k
    S = group.S[:, index] / torch.bincount(index, minlength=k)[index]
    size = (S / (group.U.shape[1] * group.V.shape[1]) ** 0.5).sqrt()[..., None]
    return (
        group.V.mT[:, index] * group.V.shape[1] ** 0.5 * size,
        group.U.mT[:, index] * group.U.shape[1] ** 0.5 * size,
    )


def recode(
    side: Side,
    other: Tensor,
    bank: Tensor,
    codes: Codes,
    *,
    levels: int | None = None,
    known: Sections | None = None,
) -> Codes:
    """Choose the codes of one factor anew, row after row, each exactly against the update left by all others.

    With the other factor O and the rest of this one fixed, the error is |o_i|^2 |x_i - t_i|^2 and a constant, where
    t_i = o_i (dW - sum over j != i of o_j x_j) / |o_i|^2. A row's old codes stay where the new are no better, so that
    the error never rises.

    Args:
        other: O, (n, rank, other width).
        codes: of this factor, from which to start.
        levels: see `choose_codes`; where it is given, all old codes are replaced.
        known: as for `choose_codes`.
    """
    X = decode(bank, codes, side.width)
    aim = (other @ side.P) @ side.Q.mT
    M = other @ other.mT
    indices, weights = codes.indices.clone(), codes.weights.clone()
    known = sections(bank, (side.width,), codes.k) if known is None else known
    for i in range(X.shape[1]):
        norm = M[:, i, i, None]
        rest = (M[:, i, None, :] @ X)[:, 0] - norm * X[:, i]
        target = torch.where(norm > 0, (aim[:, i] - rest) / norm.clamp(min=torch.finfo(X.dtype).tiny), X[:, i])
        new = choose_codes(bank, target, codes.k, levels, known)
        row = decode(bank, new, side.width)
        if codes.k > 1 and levels is None:
            keep = ((row - target).square().sum(-1) > (X[:, i] - target).square().sum(-1))[:, None, None]
            new = Codes(
                torch.where(keep, indices[:, i], new.indices),
                torch.where(keep, weights[:, i], new.weights),
            )
            row = decode(bank, new, side.width)
        indices[:, i], weights[:, i], X[:, i] = new.indices, new.weights, row
    return Codes(indices, weights)


def squared_errors(group: Group, A: Tensor, B: Tensor) -> Tensor:
    """|dW - B^T A|^2 of each, (n,), float64, without cancellation where it is small; weights are not applied.

    Args:
        A: (n, rank, in); B: (n, rank, out).
    """
    # dW - B'A' = [U, B'] [S V^T; -A']: two thin factors, whose triangles hold the whole norm.
    left = torch.cat([group.U * group.S[:, None], B.mT], 2)
    right = torch.cat([group.V, -A.mT], 2)
    if left.shape[2] < min(left.shape[1], right.shape[1]):
        left, right = torch.linalg.qr(left, mode="r")[1], torch.linalg.qr(right, mode="r")[1]
    return (left.double() @ right.double().mT).square().sum((1, 2))
