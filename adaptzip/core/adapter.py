"""The adapter as adaptzip sees it: low-rank factors by module name, extras by key, and their origin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from adaptzip.core.effects import Effects
from adaptzip.core.late import late
from adaptzip.core.layouts import TURNED, Layout
from adaptzip.core.linalg import factored_svd
from adaptzip.core.meta import Meta
from adaptzip.core.showing import Shown
from adaptzip.core.words import count, number, size
from adaptzip.errors import CheckpointError, UsageError


@dataclass(frozen=True, eq=False, repr=False)
class LoraFactors(Shown):
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

    def _told(self) -> Iterable[str]:
        yield f"{self.shape[0]} x {self.shape[1]}"
        yield f"rank {self.rank}"
        yield "" if self.scaling == 1 else f"scaling {number(self.scaling)}"
        yield "" if self.layout == "linear" else self.layout
        yield "" if self.magnitude is None else "magnitude"
        yield "" if self.bias is None else "bias"

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


@dataclass(frozen=True, eq=False, repr=False)
class Adapter(Shown):
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
        >>> adapter
        Adapter(peft, 1 module, rank 2, 28 parameters)
        >>> sorted(adapter.state_dict("peft"))
        ['base_model.model.layers.0.q_proj.lora_A.weight', 'base_model.model.layers.0.q_proj.lora_B.weight']
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

    def state_dict(
        self, dialect: str = "peft", *, dtype: torch.dtype | None = None, drop_extras: bool = False
    ) -> dict[str, Tensor]:
        """The tensors that a dialect's file would hold, by its keys, once its own reader found the adapter in them.

        What they mean may be told by a configuration as well, which `adaptzip.export` writes and `adaptzip.load_into`
        knows: for "peft" the scales.

        Args:
            dialect: whose keys: "peft", "kohya", "diffusers" and others that are one safetensors file.
            dtype: of the factors: torch.float32, torch.float16 or torch.bfloat16; None keeps their own.
            drop_extras: leave out what the dialect cannot hold, instead of refusing.

        Raises:
            UsageError: if there is no such dialect, or it has no tensors by key.
            RefusedError: if the dialect cannot hold the adapter.
            CheckFailedError: if its reader would not find the adapter in them.
        """
        found: dict[str, Tensor] = late("adaptzip.restoring.in_memory:state_dict")(
            self, dialect, dtype=dtype, drop_extras=drop_extras
        )
        return found

    def _told(self) -> Iterable[str]:
        yield self.meta.dialect
        yield count(len(self.modules), "module")
        ranks = [m.rank for m in self.modules.values()]
        if ranks:
            yield f"rank {ranks[0]}" if min(ranks) == max(ranks) else f"ranks {min(ranks)} to {max(ranks)}"
        yield count(self.parameters, "parameter")
        extras = sum(tensor.nbytes for tensor in self.extras.values())
        yield f"{count(len(self.extras), 'extra')} of {size(extras)}" if self.extras else ""
        yield f"base model {self.meta.base_model}" if self.meta.base_model else ""

    def _rows(self) -> tuple[Sequence[str], Iterable[Sequence[str]]]:
        rows = [
            (name, f"{m.shape[0]} x {m.shape[1]}", str(m.rank), number(m.scaling)) for name, m in self.modules.items()
        ]
        return ("module", "out x in", "rank", "scaling"), rows


def named_in(adapter: Adapter) -> frozenset[str]:
    """The names of all modules that an adapter changes, by factors or by what stands beside them."""
    beside = (effect.tensor.rpartition(".")[0] for effect in adapter.resolved.extras.values())
    return frozenset({*adapter.modules, *filter(None, beside)})
