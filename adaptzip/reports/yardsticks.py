"""What simple storage of the factors would cost: the rows that every method is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.workers import parallel_map

GROUP = 64
_LEVELS = 7


@dataclass(frozen=True)
class Yardstick:
    """One way to store the factors.

    Attributes:
        name: what it is.
        bytes: size of all factors, without extras and without any header.
        relative_error: |dW - dW'| / |dW| over all modules; None where the update is zero but its copy is not.
    """

    name: str
    bytes: int
    relative_error: float | None


def yardsticks(adapter: Adapter) -> tuple[Yardstick, ...]:
    """float16 factors, and int4 factors in groups of 64 with a float16 scale each."""
    return (
        _measure("float16", adapter, _as_float16, lambda numbers: 2 * numbers),
        _measure(f"int4, groups of {GROUP}", adapter, _as_int4, _int4_bytes),
    )


def _measure(name: str, adapter: Adapter, store: Callable[[Tensor], Tensor], size: Callable[[int], int]) -> Yardstick:
    modules = adapter.modules
    stored = {key: replace(m, A=store(m.A), B=store(m.B)) for key, m in modules.items()}
    total = sum(size(t.numel()) for m in modules.values() for t in (m.A, m.B))
    return Yardstick(name, total, _error(modules, stored))


def _error(before: Mapping[str, LoraFactors], after: Mapping[str, LoraFactors]) -> float | None:
    """|dW - dW'| / |dW| without a decomposition: exact to about 1e-6, which rounding to so few bits is far above."""
    found = list(parallel_map(lambda name: _squares(before[name], after[name]), before))
    total, apart = math.fsum(norm for norm, _ in found), math.fsum(error for _, error in found)
    if total == 0:
        return 0.0 if apart == 0 else None
    return math.sqrt(apart / total)


def _squares(before: LoraFactors, after: LoraFactors) -> tuple[float, float]:
    """|dW|^2 and |dW - dW'|^2 of a module."""
    out, width = before.shape
    same = all(torch.equal(a.float(), b.float()) for a, b in ((before.A, after.A), (before.B, after.B)))
    if 2 * before.rank * (out + width) > out * width:
        # The update itself is smaller than what the Gram matrices take.
        update = before.delta()
        apart = torch.zeros(()) if same else update - after.delta()
        return _norm(update) ** 2, _norm(apart) ** 2
    A = torch.cat([before.A.double(), after.A.double()])
    B = torch.cat([before.B.double(), -after.B.double()], dim=1)
    gram = (B.T @ B) * (A @ A.T) * before.scaling**2
    whole = gram[: before.rank, : before.rank].sum()
    return max(0.0, float(whole)), 0.0 if same else max(0.0, float(gram.sum()))


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64))


def _as_float16(tensor: Tensor) -> Tensor:
    limit = torch.finfo(torch.float16).max
    return tensor.float().clamp(-limit, limit).half()


def _as_int4(tensor: Tensor) -> Tensor:
    """Whole numbers from -7 to 7 times a float16 scale per group of consecutive numbers."""
    flat = tensor.float().reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -flat.numel() % GROUP)).reshape(-1, GROUP)
    scale = (padded.abs().amax(1, keepdim=True) / _LEVELS).half().float()
    codes = torch.where(scale > 0, padded / scale, 0.0).round().clamp(-_LEVELS, _LEVELS)
    return (codes * scale).reshape(-1)[: flat.numel()].reshape(tensor.shape)


def _int4_bytes(numbers: int) -> int:
    return (numbers + 1) // 2 + 2 * -(-numbers // GROUP)
