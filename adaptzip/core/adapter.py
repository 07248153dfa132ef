"""The adapter as adaptzip sees it: low-rank factors by module name, extras by key, and their origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from adaptzip.core.effects import Effects
from adaptzip.core.layouts import TURNED, Layout
from adaptzip.core.linalg import factored_svd
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
        magnitude: (out,) DoRA magnitude, else None.
        bias: (out,) `lora_B.bias`, added to the base bias after multiplying by `scaling`, else None.

    Raises:
        CheckpointError: if A and B do not fit together.
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


@dataclass(frozen=True)
class Meta:
    """Where an adapter came from.

    Attributes:
        dialect: the checkpoint dialect it was read from, such as "peft".
        config: the dialect's own configuration (PEFT's adapter_config.json), in file order.
        base_model: name or path of the base model as the adapter names it, or None.
        header: the source safetensors header, byte for byte, where the tensors are the source's own; it lets
            a lossless file be written back identically.
        config_text: the configuration file's text, byte for byte, under the same condition.
        dtype: the dtype that the source's factors had, where they were decoded to another; else None.
    """

    dialect: str = "peft"
    config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    base_model: str | None = None
    header: bytes | None = None
    config_text: str | None = None
    dtype: torch.dtype | None = None


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
