"""What simple storage of the factors would cost: the rows that every method is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.comparing import diff

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
    return diff(Adapter(before), Adapter(after)).relative_error


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
