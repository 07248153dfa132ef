"""What a dialect is given that writes a method's tensors as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from adaptzip.core.adapter import Adapter
from adaptzip.core.layouts import Layout


@dataclass(frozen=True, eq=False)
class NativeModule:
    """One module of a compressed adapter in its method's own tensors.

    Attributes:
        tensors: the decoded tensors by role: the module's own, those that all modules share, and the module's basis
            under `basis.U` and `basis.V` where it has one; {} for a zero update.
        A, B: the factors that they stand for, A (rank, in) and B (out, rank); the update is B @ A.
        out, width, layout, kernel: the update's (out, in) and how the base weight lies, as in `adapter.LoraFactors`.
        gain: what A was multiplied by after it was made of the tensors; a dialect that writes the tensors has to
            multiply one of them by it.
    """

    tensors: Mapping[str, Tensor]
    A: Tensor
    B: Tensor
    out: int
    width: int
    layout: Layout = "linear"
    kernel: tuple[int, ...] = ()
    gain: float = 1.0


@dataclass(frozen=True, eq=False)
class Native:
    """A compressed adapter in its method's own tensors, for dialects that write them as they are.

    Attributes:
        method: the method's name.
        config: its configuration as the file has it; fields that are at their default may be missing.
        modules: by module name, in sorted order.
        adapter: the same adapter as factors, with its extras and origin.
    """

    method: str
    config: Mapping[str, Any]
    modules: Mapping[str, NativeModule]
    adapter: Adapter
