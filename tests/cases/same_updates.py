"""Whether two adapters mean the same: their updates in float64, and all that lies beside them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.comparing import same_bits
from adaptzip.restoring.reading import open_checkpoint
from adaptzip.testing._adapters import by_target


def dense(factors: LoraFactors) -> Tensor:
    """The update (out, in) in float64, a kernel flattened into the inputs."""
    return factors.B.double() @ factors.A.double() * factors.scaling


def farthest(wanted: Adapter, found: Adapter) -> float:
    """The greatest |dW - dW'| / |dW| of a module; infinity where modules, or anything beside the updates, differ."""
    assert found.modules.keys() == wanted.modules.keys()
    extras = [{name: tensor for name, tensor in by_target(adapter).items()} for adapter in (wanted, found)]
    assert extras[0].keys() == extras[1].keys()
    assert all(same_bits(tensor, extras[1][name]) for name, tensor in extras[0].items())
    return max(_apart(module, found.modules[name]) for name, module in wanted.modules.items())


def _apart(wanted: LoraFactors, found: LoraFactors) -> float:
    assert (found.shape, found.kernel) == (wanted.shape, wanted.kernel)
    for ours, theirs in ((wanted.magnitude, found.magnitude), (wanted.bias, found.bias)):
        assert (ours is None) == (theirs is None)
        assert ours is None or theirs is None or torch.allclose(ours.double(), theirs.double(), rtol=1e-6)
    whole = dense(wanted)
    return float((whole - dense(found)).norm() / whole.norm().clamp_min(1e-30))


def keys_of(path: Path) -> Collection[str]:
    """The keys of a checkpoint."""
    return open_checkpoint(path).tensors.keys()
