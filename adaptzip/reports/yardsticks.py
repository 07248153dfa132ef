"""What simple storage of the factors would cost: the rows that every method is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.batching import group_by_shape
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
    total = sum(size(t.numel()) for m in modules.values() for t in (m.A, m.B))
    parts = [[modules[name] for name in names] for alike in _by_dtype(modules) for names in group_by_shape(alike)]
    return Yardstick(name, total, _error(list(parallel_map(lambda part: _squares(part, store), parts))))


def _by_dtype(modules: Mapping[str, LoraFactors]) -> list[dict[str, LoraFactors]]:
    found: dict[tuple[torch.dtype, torch.dtype], dict[str, LoraFactors]] = {}
    for name, module in modules.items():
        found.setdefault((module.A.dtype, module.B.dtype), {})[name] = module
    return list(found.values())


def _error(found: Sequence[tuple[float, float]]) -> float | None:
    """|dW - dW'| / |dW|, given the squares of both for some modules each."""
    total, apart = math.fsum(norm for norm, _ in found), math.fsum(error for _, error in found)
    if total == 0:
        return 0.0 if apart == 0 else None
    return math.sqrt(apart / total)


def _squares(modules: Sequence[LoraFactors], store: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """|dW|^2 and |dW - dW'|^2 of modules of one shape and dtype together.

    Without a decomposition: exact to about 1e-6, which rounding to so few bits is far above.
    """
    A, B = torch.stack([m.A for m in modules]), torch.stack([m.B for m in modules])
    scaling = torch.tensor([m.scaling for m in modules], dtype=torch.float64)
    stored = store(A), store(B)
    same = [(one.float() == other.float()).flatten(1).all(1) for one, other in zip((A, B), stored, strict=True)]
    moved = ~(same[0] & same[1])
    (out, width), rank = modules[0].shape, modules[0].rank
    if 2 * rank * (out + width) > out * width:
        # The update itself is smaller than what the Gram matrices take.
        update = _update(A, B) * scaling[:, None, None]
        apart = update - _update(*stored) * scaling[:, None, None]
        return float(update.square().sum()), float(apart[moved].square().sum())
    pair = torch.cat([A.double(), stored[0].double()], dim=1), torch.cat([B.double(), -stored[1].double()], dim=2)
    gram = (pair[1].mT @ pair[1]) * (pair[0] @ pair[0].mT) * scaling.square()[:, None, None]
    whole, error = gram[:, :rank, :rank].sum((1, 2)), gram[moved].sum((1, 2))
    return float(whole.clamp(min=0).sum()), float(error.clamp(min=0).sum())


def _update(A: Tensor, B: Tensor) -> Tensor:
    return B.double() @ A.double()


def _as_float16(tensors: Tensor) -> Tensor:
    limit = torch.finfo(torch.float16).max
    return tensors.float().clamp(-limit, limit).half()


def _as_int4(tensors: Tensor) -> Tensor:
    """Whole numbers from -7 to 7 times a float16 scale per group of consecutive numbers of each tensor."""
    flat = tensors.float().flatten(1)
    padded = torch.nn.functional.pad(flat, (0, -flat.shape[1] % GROUP)).reshape(len(flat), -1, GROUP)
    scale = (padded.abs().amax(2, keepdim=True) / _LEVELS).half().float()
    codes = torch.where(scale > 0, padded / scale, 0.0).round().clamp(-_LEVELS, _LEVELS)
    return (codes * scale).flatten(1)[:, : flat.shape[1]].reshape(tensors.shape)


def _int4_bytes(numbers: int) -> int:
    return (numbers + 1) // 2 + 2 * -(-numbers // GROUP)
