"""Published ways to make an adapter smaller, from their formulas: ComPEFT, LoRAQuant and sd-scripts' resize rules.

Bytes are those of numbers, signs, places and scales alone. What the papers leave to a model's data is left out, and
where a paper has a choice the better one for the update is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil, log2, sqrt

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.linalg import factored_svd
from benchmarks.peers.rates import Point
from benchmarks.storage import Modules, error_of

GROUP = 128
"""LoRAQuant's numbers to a scale."""
HALF = 16
"""Bits of a scale."""
Rule = Callable[[Tensor], int]
"""Singular values, the largest first, to the rank that is kept."""


def compeft(adapter: Adapter, density: float) -> Point:
    """arXiv 2311.13171: alpha sigma sign(x) where |x| is among the largest `density` of a tensor, else 0.

    sigma is the tensor's standard deviation. One alpha for all, here the one of least error; in the paper validation
    chooses it. Signs and places count at the entropy of a ternary symbol, which no code falls below, and one scalar a
    tensor.
    """
    bits, plain = 0.0, {}
    for name, module in adapter.modules.items():
        A, B = ternary(module.A, density), ternary(module.B, density)
        plain[name] = _with(module, A, B)
        bits += sum(side.numel() * ternary_bits(float(side.ne(0).double().mean())) + HALF for side in (A, B))
    alpha = best_alpha(adapter.modules, plain)
    modules = {name: replace(module, A=alpha * module.A, B=alpha * module.B) for name, module in plain.items()}
    return Point(f"density {density:g}", ceil(bits / 8), error_of(adapter, modules))


def best_alpha(wanted: Modules, given: Modules) -> float:
    """The factor of both A and B in `given` that leaves the least |dW - dW'|; 0 where no factor helps."""
    along = sum(_inner(module, given[name]) for name, module in wanted.items())
    return sqrt(max(along, 0.0) / sum(_inner(module, module) for module in given.values()))


def _inner(one: LoraFactors, other: LoraFactors) -> float:
    """The sum of products of two updates, number by number."""
    left, right = one.B.double().T @ other.B.double(), one.A.double() @ other.A.double().T
    return float((left * right).sum()) * one.scaling * other.scaling


def ternary(tensor: Tensor, density: float) -> Tensor:
    """The signs of the largest numbers times the standard deviation of all."""
    flat = tensor.float().reshape(-1)
    kept = torch.zeros_like(flat)
    largest = flat.abs().topk(max(1, round(density * flat.numel()))).indices
    kept[largest] = flat[largest].sign()
    return (kept * flat.std(correction=0)).reshape(tensor.shape)


def ternary_bits(density: float) -> float:
    """The entropy of 0 with probability 1 - density, and of either sign with density / 2."""
    shares = (1 - density, density / 2, density / 2)
    return -sum(share * log2(share) for share in shares if share > 0)


def loraquant(adapter: Adapter, high_bits: int, ratio: float) -> Point:
    """arXiv 2510.26690: singular components that hold `ratio` of the energy in `high_bits`, the others in signs.

    U sqrt(S) is quantised by columns and sqrt(S) V by rows, in groups of 128: rounded to the nearest of 2^bits levels
    with a scale and a zero point, or to signs times the mean magnitude. The paper's training is left out.
    """
    bits, modules = 0, {}
    for name, module in adapter.modules.items():
        U, S, Vt = (part[0] for part in factored_svd(module.A[None].float(), module.B[None].float(), module.scaling))
        high = split(S, ratio)
        sides = []
        for rows in ((S.sqrt()[:, None] * Vt), (U * S.sqrt()).T):
            fine, coarse = rounded(rows[:high], high_bits), signed(rows[high:])
            groups = ceil(rows.shape[1] / GROUP)
            bits += high * (high_bits * rows.shape[1] + groups * (HALF + high_bits))
            bits += (len(rows) - high) * (rows.shape[1] + groups * HALF)
            sides.append(torch.cat([fine, coarse]))
        modules[name] = _with(module, sides[0], sides[1].T, scaling=1.0)
    return Point(f"{high_bits} and 1 bits, ratio {ratio:g}", ceil(bits / 8), error_of(adapter, modules))


def split(S: Tensor, ratio: float) -> int:
    """The fewest components that hold `ratio` of the energy."""
    return cumulative(ratio)(S.square())


def rounded(rows: Tensor, bits: int) -> Tensor:
    """Each group of a row rounded to 2^bits levels from its least to its largest number, 0 among them."""
    limit = 2**bits - 1

    def nearest(group: Tensor) -> Tensor:
        low, high = group.amin(1, keepdim=True).clamp(max=0), group.amax(1, keepdim=True).clamp(min=0)
        scale = ((high - low) / limit).half().float()
        zero = torch.where(scale > 0, -low / scale, 0.0).round()
        codes = torch.where(scale > 0, group / scale + zero, zero).round().clamp(0, limit)
        return codes.sub(zero).mul(scale)

    return _grouped(rows, nearest)


def signed(rows: Tensor) -> Tensor:
    """Each group of a row as signs times its mean magnitude, which leaves the least squared error."""
    return _grouped(rows, lambda group: group.sign() * group.abs().mean(1, keepdim=True).half().float())


def _grouped(rows: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    ends = tuple(range(GROUP, rows.shape[1], GROUP))
    return torch.cat([change(group) for group in rows.tensor_split(ends, dim=1)], dim=1)


def fixed(rank: int) -> Rule:
    """sd-scripts' fixed rank."""
    return lambda S: min(rank, len(S))


def sv_ratio(ratio: float) -> Rule:
    """sd-scripts' sv_ratio: singular values above the largest divided by a ratio."""
    return lambda S: max(1, int(S.gt(S[0] / ratio).sum()))


def cumulative(share: float) -> Rule:
    """sd-scripts' sv_cumulative: the first values that sum to a share of all."""
    return lambda S: min(len(S), int((S.double().cumsum(0) < share * S.double().sum()).sum()) + 1)


def sv_fro(share: float) -> Rule:
    """sd-scripts' sv_fro: the first values whose Frobenius norm is a share of that of all."""
    return lambda S: cumulative(share**2)(S.double().square())


def resized(adapter: Adapter, rule: Rule, setting: str) -> Point:
    """Each module cut to the rank of a rule, in float16."""
    size, modules = 0, {}
    for name, module in adapter.modules.items():
        U, S, Vt = (part[0] for part in factored_svd(module.A[None].float(), module.B[None].float(), module.scaling))
        rank = rule(S)
        root = S[:rank].sqrt()
        A, B = (root[:, None] * Vt[:rank]).half().float(), (U[:, :rank] * root).half().float()
        size += 2 * (A.numel() + B.numel())
        modules[name] = _with(module, A, B, scaling=1.0)
    return Point(setting, size, error_of(adapter, modules))


def _with(module: LoraFactors, A: Tensor, B: Tensor, scaling: float | None = None) -> LoraFactors:
    scale = module.scaling if scaling is None else scaling
    return replace(module, A=A, B=B, scaling=scale, magnitude=None, bias=None)
