"""LoHa's and LoKr's products as plain low-rank factors: B (out, rank) and A (rank, in), of which B @ A is the product.

A Hadamard product of updates of ranks r1 and r2 has rank r1 * r2 at most, and so has a Kronecker product; both have
factors that are products of the given numbers, so that nothing is decomposed. Where that rank reaches the smaller side
of the update, the update itself is one factor and an identity the other. The arguments are called as LyCORIS calls
the tensors, without `hada_` and `lokr_`; those of convolutions may have their kernel flattened into the inputs or not,
and it is flattened into A's. Everything is computed in float32, or in float64 where a tensor is. No scale is applied.

LoHa: Hyeon-Woo et al. 2021, arXiv:2108.06098. LoKr: Yeh et al. 2023, arXiv:2309.14859.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""B (out, rank) and A (rank, in)."""


def hadamard(
    w1_a: Tensor,
    w1_b: Tensor,
    w2_a: Tensor,
    w2_b: Tensor,
    t1: Tensor | None = None,
    t2: Tensor | None = None,
) -> Factors:
    """Factors of (w1_a @ w1_b) * (w2_a @ w2_b), element by element.

    Args:
        w1_a, w2_a: (out, r), or (r, out) where there is a core.
        w1_b, w2_b: (r, in), with the kernel's dimensions after `in`, flattened or not; (r, channels) with a core.
        t1, t2: the cores (r, r, *kernel), both or none.

    Raises:
        ValueError: if the tensors do not fit together; it says which.
    """
    if (t1 is None) != (t2 is None):
        raise ValueError("has one of t1 and t2, expected both or none")
    w1_a, w1_b, w2_a, w2_b, *cores = _floats(w1_a, w1_b, w2_a, w2_b, *(t for t in (t1, t2) if t is not None))
    B1, A1 = _half("w1", w1_a, w1_b, cores[0] if cores else None)
    B2, A2 = _half("w2", w2_a, w2_b, cores[1] if cores else None)
    if (B1.shape[0], A1.shape[1]) != (B2.shape[0], A2.shape[1]):
        raise ValueError(
            f"w1 is {[B1.shape[0], A1.shape[1]]} and w2 is {[B2.shape[0], A2.shape[1]]}, expected the same shape"
        )
    if B1.shape[1] * B2.shape[1] >= min(B1.shape[0], A1.shape[1]):
        return dense((B1 @ A1) * (B2 @ A2))
    B, A = torch.einsum("op,oq->opq", B1, B2), torch.einsum("pi,qi->pqi", A1, A2)
    return B.flatten(1).contiguous(), A.flatten(0, 1).contiguous()


def kronecker(
    *,
    w1: Tensor | None = None,
    w1_a: Tensor | None = None,
    w1_b: Tensor | None = None,
    w2: Tensor | None = None,
    w2_a: Tensor | None = None,
    w2_b: Tensor | None = None,
    t2: Tensor | None = None,
) -> Factors:
    """Factors of the Kronecker product of w1 and w2, each whole or as a product of two.

    Args:
        w1: (a, c), or else
        w1_a, w1_b: (a, r) and (r, c).
        w2: (b, d, *kernel), or else
        w2_a, w2_b: (b, r) and (r, d, *kernel), flattened or not; (r, b) and (r, d) where there is
        t2: a core (r, r, *kernel).

    Returns:
        B (a * b, rank) and A (rank, c * d * kernel).

    Raises:
        ValueError: if tensors are missing, too many, or do not fit together; it says which.
    """
    given = {"w1": w1, "w1_a": w1_a, "w1_b": w1_b, "w2": w2, "w2_a": w2_a, "w2_b": w2_b, "t2": t2}
    there = [name for name, tensor in given.items() if tensor is not None]
    floats = dict(zip(there, _floats(*(tensor for tensor in given.values() if tensor is not None)), strict=True))
    B1, A1 = _side("w1", floats, None)
    B2, A2 = _side("w2", floats, floats.get("t2"))
    if B1.shape[1] * B2.shape[1] >= min(B1.shape[0] * B2.shape[0], A1.shape[1] * A2.shape[1]):
        return dense(_kron(B1 @ A1, B2 @ A2))
    return _kron(B1, B2), _kron(A1, A2)


def tucker(up: Tensor, down: Tensor, core: Tensor) -> Factors:
    """Factors of the update that a core (r1, r2, *kernel) stands in the middle of.

    Args:
        up: (out, r1), with or without dimensions of size 1 after it.
        down: (r2, channels), likewise.

    Returns:
        B (out, r1), which is `up`, and A (r1, channels * kernel).

    Raises:
        ValueError: if they do not fit together.
    """
    up, down, core = _floats(up, down, core)
    if core.ndim < 3:
        raise ValueError(f"the core is {list(core.shape)}, expected (rank, rank, *kernel)")
    up, down = _matrix("up", up), _matrix("down", down)
    if (up.shape[1], down.shape[0]) != tuple(core.shape[:2]) or 0 in core.shape:
        raise ValueError(
            f"the core is {list(core.shape)} between {list(up.shape)} and {list(down.shape)}, expected "
            f"({up.shape[1]}, {down.shape[0]}, *kernel)"
        )
    return up.contiguous(), torch.einsum("ijk,jc->ick", core.flatten(2), down).flatten(1).contiguous()


def dense(update: Tensor) -> Factors:
    """Factors of an update (out, in) of full rank: itself, and an identity of its smaller side."""
    out, width = update.shape
    eye = torch.eye(min(out, width), dtype=update.dtype)
    update = update.contiguous()
    return (eye, update) if out <= width else (update, eye)


def _half(name: str, a: Tensor, b: Tensor, core: Tensor | None) -> Factors:
    """The factors of one of the two products, with its core, if any, taken into A."""
    a, b = _matrix(f"{name}_a", a), _matrix(f"{name}_b", b)
    if core is not None:
        return tucker(a.T, b, core)
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"{name}_a is {list(a.shape)} and {name}_b is {list(b.shape)}, expected one rank")
    return a, b


def _side(name: str, parts: Mapping[str, Tensor], core: Tensor | None) -> Factors:
    """The factors of one side of a Kronecker product, of no more than full rank."""
    there = {part for part in (name, f"{name}_a", f"{name}_b") if part in parts}
    if there not in ({name}, {f"{name}_a", f"{name}_b"}) or (core is not None and name in there):
        found = ", ".join(sorted(there)) or "neither"
        raise ValueError(f"has {found}{' with a core' if core is not None else ''}, expected {name}, or its a and b")
    if name in there:
        return dense(_matrix(name, parts[name]))
    B, A = _half(name, parts[f"{name}_a"], parts[f"{name}_b"], core)
    return dense(B @ A) if B.shape[1] >= min(B.shape[0], A.shape[1]) else (B, A)


def _kron(a: Tensor, b: Tensor) -> Tensor:
    """The Kronecker product of two matrices, however they lie in memory."""
    product = torch.einsum("ac,bd->abcd", a, b).contiguous()
    return product.reshape(a.shape[0] * b.shape[0], a.shape[1] * b.shape[1])


def _matrix(name: str, tensor: Tensor) -> Tensor:
    """A tensor with all dimensions after the first made one."""
    if tensor.ndim < 2 or 0 in tensor.shape:
        raise ValueError(f"{name} is {list(tensor.shape)}, expected two dimensions or more, none of them empty")
    return tensor.flatten(1)


def _floats(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in the one dtype that they are computed in."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return tuple(tensor.to(dtype) for tensor in tensors)
