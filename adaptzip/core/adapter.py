"""The adapter as adaptzip sees it: low-rank factors by module name, extras by key, and their origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptzip.core.effects import Effects
from adaptzip.core.layouts import TURNED, Layout
from adaptzip.core.linalg import factored_svd
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError, UsageError


@dataclass(frozen=True, eq=False)
class LoraFactors:
    """One module's low-rank update `scaling * B @ A`, in the dtype it was stored in.

    Attributes:
        A: (rank, in); a convolution's kernel is flattened into `in`.
        B: (out, rank).
        scaling: alpha / rank, alpha / sqrt(rank) with rslora, or 1 where it is already in the factors.
        layout: see `Layout`.
        kernel: kernel size of a convolution, else ().
        magnitude: DoRA magnitude: (out,), the norm of each row of the sum of base weight and update, or (1, inputs),
            that of each input over all outputs and the kernel; else None.
        bias: (out,) `lora_B.bias`, added to the base bias after multiplying by `scaling`, else None.

    Raises:
        CheckpointError: if A and B do not fit together.

    Example:
        >>> A, B = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[1.0], [3.0]])
        >>> factors = adaptzip.LoraFactors(A, B, scaling=0.5)
        >>> factors.rank, factors.shape, factors.parameters
        (1, (2, 3), 5)
        >>> factors.delta()
        tensor([[0.5000, 0.0000, 1.0000],
                [1.5000, 0.0000, 3.0000]])
    """

    A: Tensor
    B: Tensor
    scaling: float = 1.0
    layout: Layout = "linear"
    kernel: tuple[int, ...] = ()
    magnitude: Tensor | None = None
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[0] != self.B.shape[1]:
            raise CheckpointError(
                f"factors do not fit together: A is {tuple(self.A.shape)}, B is {tuple(self.B.shape)}; "
                "expected A (rank, in) and B (out, rank)"
            )

    @property
    def rank(self) -> int:
        """Rows of A, and columns of B."""
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the update."""
        return self.B.shape[0], self.A.shape[1]

    @property
    def parameters(self) -> int:
        """Stored numbers in A and B."""
        return self.A.numel() + self.B.numel()

    def delta(self) -> Tensor:
        """The dense update `scaling * B @ A`, (out, in), float32 (float64 factors stay float64)."""
        dtype = torch.promote_types(torch.promote_types(self.A.dtype, self.B.dtype), torch.float32)
        return (self.B.to(dtype) @ self.A.to(dtype)) * self.scaling

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """Thin SVD of `delta()` from the factors: U (out, k), S (k,), Vt (k, in), k = min(rank, in, out).

        float32 (float64 factors stay float64), with the canonical signs of `adaptzip.core.linalg`.
        """
        dtype = torch.promote_types(torch.promote_types(self.A.dtype, self.B.dtype), torch.float32)
        U, S, Vt = factored_svd(self.A[None], self.B[None], self.scaling, dtype=dtype)
        return U[0], S[0], Vt[0]

    def weight_delta(self) -> Tensor:
        """`delta()` in the base weight's own layout (see `Layout`); an expert's is its slice."""
        delta = self.delta()
        if self.layout in TURNED:
            return delta.T
        if self.layout == "conv":
            out, flat = self.shape
            size = 1
            for k in self.kernel:
                size *= k
            return delta.reshape(out, flat // size, *self.kernel)
        return delta


@dataclass(frozen=True, eq=False)
class Adapter:
    """A whole adapter.

    Attributes:
        modules: factors by module name (the module's path in the base model), in sorted order.
        extras: every other tensor by its key in the source file: heads, biases, embeddings, token rows.
        meta: origin.
        effects: what it does beside its updates, as its dialect told it from the extras' keys and the configuration
            when it was read; None where it was made in memory. What takes an adapter from memory resolves it anew, so
            that what was replaced in it counts.

    Example:
        >>> factors = adaptzip.LoraFactors(A=torch.ones(2, 8), B=torch.ones(6, 2))
        >>> adapter = adaptzip.Adapter({"layers.0.q_proj": factors})
        >>> adapter.parameters
        28
        >>> small = adaptzip.compress(adapter, lossless=True)
        >>> torch.equal(adaptzip.reconstruct(small).modules["layers.0.q_proj"].B, factors.B)
        True
    """

    modules: Mapping[str, LoraFactors]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    meta: Meta = field(default_factory=Meta)
    effects: Effects | None = None

    @property
    def resolved(self) -> Effects:
        """`effects`; none where there is nothing to resolve.

        Raises:
            UsageError: if they were not resolved for these extras.
        """
        known = self.effects
        if known is None and not self.extras and not self.meta.config:
            return Effects()
        if known is None or not self.extras.keys() <= known.extras.keys():
            raise UsageError(
                "what the adapter does beside its updates is not resolved",
                hint="adaptzip.checkpoints.resolved does so for an adapter that was made in memory",
            )
        return known

    @property
    def parameters(self) -> int:
        """Stored numbers in all factors, extras not counted."""
        return sum(m.parameters for m in self.modules.values())


def named_in(adapter: Adapter) -> frozenset[str]:
    """The names of all modules that an adapter changes, by factors or by what stands beside them."""
    beside = (effect.tensor.rpartition(".")[0] for effect in adapter.resolved.extras.values())
    return frozenset({*adapter.modules, *filter(None, beside)})
