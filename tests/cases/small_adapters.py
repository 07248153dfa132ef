"""Small adapters made on the fly, with falling spectra as trained ones have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors, Meta

Shape = tuple[int, int, int]
"""(out, in, rank)."""


def factors(out: int, width: int, rank: int, *, seed: int = 0, **options: Any) -> LoraFactors:
    """Random factors whose singular values fall by a third from one to the next."""
    generator = torch.Generator().manual_seed(seed)
    strength = 0.66 ** torch.arange(rank)
    A = torch.randn(rank, width, generator=generator)
    B = torch.randn(out, rank, generator=generator) * strength / max(out * width, 1) ** 0.5
    return LoraFactors(A, B, **options)


def adapter(
    shapes: Mapping[str, Shape] | Sequence[Shape],
    *,
    seed: int = 0,
    extras: Mapping[str, Tensor] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Adapter:
    """An adapter of random factors; without names the modules are m.0, m.1 and so on."""
    if not isinstance(shapes, Mapping):
        shapes = {f"m.{i}": shape for i, shape in enumerate(shapes)}
    modules = {name: factors(*shape, seed=seed + i) for i, (name, shape) in enumerate(shapes.items())}
    return Adapter(dict(sorted(modules.items())), dict(extras or {}), Meta(config=dict(config or {})))


def bits(tensor: Tensor) -> bytes:
    """A tensor's memory."""
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal in dtype, shape and every bit."""
    return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)


def relative_error(a: Adapter, b: Adapter) -> float:
    """|dW - dW'| / |dW| over all modules, from the dense updates in float64."""
    error = energy = 0.0
    for name, module in a.modules.items():
        full = (module.B.double() @ module.A.double() * module.scaling).numpy()
        other = b.modules[name]
        error += float(np.square(full - (other.B.double() @ other.A.double() * other.scaling).numpy()).sum())
        energy += float(np.square(full).sum())
    found: float = (error / energy) ** 0.5
    return found
