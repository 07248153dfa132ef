"""What people do today to store an adapter's factors in fewer bytes: the rows that adaptzip is compared with.

Bytes are those of the stored numbers and their scales alone, without any header, names or configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import zstandard
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.comparing import diff
from adaptzip.core.linalg import factored_svd

GROUP = 64
_EXACT = 1e-12
"""An error below this is the rounding of its own computation."""
Modules = Mapping[str, LoraFactors]


@dataclass(frozen=True)
class Stored:
    """An adapter in some storage.

    Attributes:
        bytes: of all factors.
        relative_error: |dW - dW'| / |dW| over all modules.
    """

    bytes: float
    relative_error: float


def half(adapter: Adapter) -> Stored:
    """Factors in float16."""
    return Stored(2 * adapter.parameters, error_of(adapter, _each(adapter.modules, _to_half)))


def zstd(adapter: Adapter, *, as_half: bool = False, shuffled: bool = False) -> Stored:
    """Factors through zstd -19, as they are or in float16.

    Args:
        shuffled: gather all first bytes of a tensor's numbers, then all second bytes, and so on.
    """
    tensors = _tensors(adapter.modules)
    data = b"".join(_raw(_clamped(tensor).half() if as_half else tensor, shuffled) for tensor in tensors)
    coded = zstandard.ZstdCompressor(level=19).compress(data)
    return Stored(len(coded), half(adapter).relative_error if as_half else 0.0)


def integers(adapter: Adapter, bits: int, *, symmetric: bool) -> Stored:
    """Factors as integers of some bits in groups of 64 along their input axis; each group has a float16 scale.

    Where that axis is shorter than a group (B's is the rank) a group runs on over the next rows. Asymmetric groups
    have a zero point of as many bits.
    """
    stored = _each(adapter.modules, partial(_round_groups, bits=bits, symmetric=symmetric))
    overhead = 16 + (0 if symmetric else bits)
    size = sum(tensor.numel() * bits + -(-tensor.numel() // GROUP) * overhead for tensor in _tensors(adapter.modules))
    return Stored(-(-size // 8), error_of(adapter, stored))


def uniform_rank(adapter: Adapter, budget: float) -> Stored | None:
    """The largest one rank for all modules whose float16 factors fit into `budget` bytes; None if rank 1 does not.

    That is what converting with one target rank gives. Between two ranks nothing is interpolated.
    """
    most = max(module.rank for module in adapter.modules.values())
    fitting = [rank for rank in range(1, most + 1) if 2 * _numbers(adapter.modules, rank) <= budget]
    if not fitting:
        return None
    rank = fitting[-1]
    kept = {name: _truncated(module, min(rank, module.rank)) for name, module in adapter.modules.items()}
    return Stored(2 * _numbers(adapter.modules, rank), error_of(adapter, _each(kept, _to_half)))


def global_rank_int4(adapter: Adapter, budget: float) -> Stored:
    """The components that save most squared error per number, over all modules, as int4 factors within `budget`.

    A component's share of the singular value goes to both sides in equal parts, each row of factors is rounded in
    groups of 64 of its own, and the better of symmetric and asymmetric groups counts.
    """
    return min(
        (_global_rank_int4(adapter, budget, symmetric) for symmetric in (True, False)),
        key=lambda stored: stored.relative_error,
    )


def _global_rank_int4(adapter: Adapter, budget: float, symmetric: bool) -> Stored:
    found = {name: _split(module) for name, module in adapter.modules.items()}
    overhead = 16 + (0 if symmetric else 4)
    ranked = sorted(
        (float(-s * s) / sum(module.shape), sum(4 * n + -(-n // GROUP) * overhead for n in module.shape), name)
        for name, module in adapter.modules.items()
        for s in found[name][2].tolist()
    )
    ranks, bits = dict.fromkeys(found, 0), 0
    for _, cost, name in ranked:
        if bits + cost > 8 * budget:
            break
        ranks[name] += 1
        bits += cost
    store = partial(_round_groups, bits=4, symmetric=symmetric)
    rounded = {
        name: LoraFactors(_rows(A[: ranks[name]], store), _rows(B.T[: ranks[name]], store).T)
        for name, (A, B, _) in found.items()
    }
    return Stored(-(-bits // 8), error_of(adapter, rounded))


def _rows(matrix: Tensor, store: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([store(row) for row in matrix]) if len(matrix) else matrix


def _split(module: LoraFactors) -> tuple[Tensor, Tensor, Tensor]:
    """Balanced factors A (k, in), B (out, k) of scaling 1, and the singular values (k,)."""
    U, S, Vt = (part[0] for part in factored_svd(module.A[None], module.B[None], module.scaling))
    root = S.sqrt()
    return root[:, None] * Vt, U * root, S


def _truncated(module: LoraFactors, rank: int) -> LoraFactors:
    A, B, _ = _split(module)
    return LoraFactors(A[:rank], B[:, :rank])


def _numbers(modules: Modules, rank: int) -> int:
    return sum(min(rank, module.rank) * sum(module.shape) for module in modules.values())


def _round_groups(tensor: Tensor, bits: int, symmetric: bool) -> Tensor:
    """The tensor after rounding to integers in groups; padding of the last group is a copy of its last number."""
    flat = tensor.float().reshape(-1)
    padded = torch.cat([flat, flat[-1:].expand(-flat.numel() % GROUP)]).reshape(-1, GROUP)
    rounded = _symmetric(padded, bits) if symmetric else _asymmetric(padded, bits)
    return rounded.reshape(-1)[: flat.numel()].reshape(tensor.shape)


def _symmetric(groups: Tensor, bits: int) -> Tensor:
    """Integers from -2^(bits-1) to 2^(bits-1) - 1, the number of largest magnitude on the side that reaches further."""
    limit = 2 ** (bits - 1)
    largest = groups.gather(1, groups.abs().argmax(1, keepdim=True))
    scale = (largest / -limit).half().float()
    return torch.where(scale != 0, groups / scale, 0.0).round().clamp(-limit, limit - 1).mul(scale)


def _asymmetric(groups: Tensor, bits: int) -> Tensor:
    """Integers from 0 to 2^bits - 1 less a zero point of that range, between a group's least and largest number."""
    limit = 2**bits - 1
    low, high = groups.amin(1, keepdim=True).clamp(max=0), groups.amax(1, keepdim=True).clamp(min=0)
    scale = ((high - low) / limit).half().float()
    zero = torch.where(scale > 0, -low / scale, 0.0).round().clamp(0, limit)
    codes = torch.where(scale > 0, groups / scale + zero, zero).round().clamp(0, limit)
    return codes.sub(zero).mul(scale)


def _to_half(tensor: Tensor) -> Tensor:
    return _clamped(tensor).half().float()


def _clamped(tensor: Tensor) -> Tensor:
    limit = torch.finfo(torch.float16).max
    return tensor.float().clamp(-limit, limit)


def _raw(tensor: Tensor, shuffled: bool) -> bytes:
    data = np.ascontiguousarray(tensor.contiguous().view(torch.uint8).numpy())
    if not shuffled:
        return data.tobytes()
    return np.ascontiguousarray(data.reshape(-1, tensor.element_size()).T).tobytes()


def _tensors(modules: Modules) -> Iterable[Tensor]:
    for module in modules.values():
        yield module.A
        yield module.B


def _each(modules: Modules, store: Callable[[Tensor], Tensor]) -> dict[str, LoraFactors]:
    return {name: replace(m, A=store(m.A), B=store(m.B), magnitude=None, bias=None) for name, m in modules.items()}


def error_of(adapter: Adapter, stored: Modules) -> float:
    """|dW - dW'| / |dW| over all modules, without magnitudes and biases."""
    plain = {name: replace(m, magnitude=None, bias=None) for name, m in adapter.modules.items()}
    error = diff(Adapter(plain), Adapter(dict(stored))).relative_error or 0.0
    return error if error > _EXACT else 0.0
