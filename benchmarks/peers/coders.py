"""Peers that are packages, each asked in its own environment for one adapter at all settings at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log2
from typing import Any

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter
from benchmarks.other_coders import scaled as scaled_factors
from benchmarks.other_coders import stacked, unscaled, unstacked
from benchmarks.peers.drivers.exchange import Arrays
from benchmarks.peers.environments import Environments, PeerFailedError
from benchmarks.peers.packages import BITSANDBYTES, ENTROPACK, NNCODEC, PEFT, ZIPNN, Package
from benchmarks.peers.rates import Point
from benchmarks.storage import error_of, half

BITS = (1.0, 1.5, 2.0, 3.0, 4.0)
"""A number, of EntroPack."""
QPS = (-16, -10, -4, 2, 8)
"""Parameters of NNCodec above the one whose step is about the smaller stack's root mean square; four double a step."""
PEFT_WORK = 7e9
"""Most multiplications of PEFT's dense decompositions of an adapter, which take it some minutes."""


def zipnn(environments: Environments, adapter: Adapter, *, as_half: bool = False) -> list[Point]:
    """The numbers in the type that they are stored in, or in float16."""
    tensors = [tensor for module in adapter.modules.values() for tensor in (module.A, module.B)]
    if as_half:
        limit = torch.finfo(torch.float16).max
        tensors = [tensor.float().clamp(-limit, limit).half() for tensor in tensors]
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
    arrays = {
        name: torch.cat([_bytes(t) for t in tensors if str(t.dtype) == f"torch.{name}"]).numpy() for name in types
    }
    (answer,) = environments.ask(ZIPNN, arrays, [None])
    for name, array in arrays.items():
        if (answer.arrays[name] != array).any():
            raise PeerFailedError(f"ZipNN: {name}: expected the same bytes back, found others")
    return [Point("", answer.bytes, half(adapter).relative_error if as_half else 0.0)]


def nf4(environments: Environments, adapter: Adapter, *, doubled: bool) -> list[Point]:
    return _of_factors(environments, BITSANDBYTES, adapter, [doubled], [""])


def lower_ranks(environments: Environments, adapter: Adapter) -> list[Point]:
    """Half the largest rank, a quarter, and so on to 1; none where PEFT's dense decompositions take long."""
    if sum(max(m.shape) * min(m.shape) ** 2 for m in adapter.modules.values()) > PEFT_WORK:
        return []
    largest = max(module.rank for module in adapter.modules.values())
    ranks = [largest >> step for step in range(1, largest.bit_length())]
    return _of_factors(environments, PEFT, adapter, ranks, [f"rank {rank}" for rank in ranks]) if ranks else []


def entropack(environments: Environments, adapter: Adapter) -> list[Point]:
    names = [f"{bits:g} bits a number" for bits in BITS]
    return _of_stacks(environments, ENTROPACK, adapter, BITS, names, lambda made: error_of(adapter, made.modules))


def nncodec(environments: Environments, adapter: Adapter, *, scaled: bool = False) -> list[Point]:
    """A and B as they are, or the scaled singular factors that `svd` quantises, in which one step is right for all."""
    given = scaled_factors(adapter) if scaled else adapter
    smaller = min(float(rows.square().mean()) for rows in stacked(given).values())
    qps = [round(2 * log2(smaller)) + above for above in QPS]

    def error(made: Adapter) -> float:
        return error_of(adapter, (unscaled(made) if scaled else made).modules)

    return _of_stacks(environments, NNCODEC, given, qps, [f"qp {qp}" for qp in qps], error)


def _of_stacks(
    environments: Environments,
    package: Package,
    adapter: Adapter,
    settings: Sequence[Any],
    names: Sequence[str],
    error: Callable[[Adapter], float],
) -> list[Point]:
    """Points of a coder that is given A and B of all modules stacked, which spares it a header for each."""
    arrays = {name: rows.numpy() for name, rows in stacked(adapter).items()}
    answers = environments.ask(package, arrays, settings)
    made = [unstacked(adapter, {name: _tensor(rows) for name, rows in answer.arrays.items()}) for answer in answers]
    return [Point(n, answer.bytes, error(one)) for n, answer, one in zip(names, answers, made, strict=True)]


def _of_factors(
    environments: Environments, package: Package, adapter: Adapter, settings: Sequence[Any], names: Sequence[str]
) -> list[Point]:
    """Points of a peer that is given A and scaled B of each module."""
    arrays = factors(adapter)
    answers = environments.ask(package, arrays, settings)
    return [
        Point(name, answer.bytes, error_of(adapter, rebuilt(adapter, answer.arrays).modules))
        for name, answer in zip(names, answers, strict=True)
    ]


def factors(adapter: Adapter) -> Arrays:
    """A and scaled B in float32, called by the module's number and the side."""
    return {
        f"m{number}|{side}": tensor.float().numpy()
        for number, module in enumerate(adapter.modules.values())
        for side, tensor in (("A", module.A), ("B", module.B.float() * module.scaling))
    }


def rebuilt(like: Adapter, arrays: Arrays) -> Adapter:
    """The adapter of such arrays."""
    modules = {
        name: replace(module, A=_tensor(arrays[f"m{number}|A"]), B=_tensor(arrays[f"m{number}|B"]), scaling=1.0)
        for number, (name, module) in enumerate(like.modules.items())
    }
    return replace(like, modules=modules)


def _tensor(array: object) -> Tensor:
    return torch.as_tensor(array).float()


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8).reshape(-1)
