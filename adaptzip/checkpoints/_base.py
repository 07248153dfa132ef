"""What a checkpoint dialect is: something that recognises, reads and writes one kind of adapter file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter
from adaptzip.core.layouts import Layout


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """An opened checkpoint, not yet understood.

    Attributes:
        path: what the user named, for messages.
        weights: the file that holds the tensors.
        tensors: every tensor by its key as PEFT would write it, memory mapped where the file allows it.
        metadata: the safetensors metadata, empty for other files.
        header: the safetensors header, byte for byte, or None where the tensors and keys are not one such file's.
        config: the parsed configuration beside the weights in file order, or None where there is none.
        config_text: its text.
        alpha: lora_alpha as the user gave it, or None.
        model_type: the base model's, where its folder was given.
    """

    path: Path
    weights: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    header: bytes | None = None
    config: Mapping[str, Any] | None = None
    config_text: str | None = None
    alpha: float | None = None
    model_type: str | None = None


@dataclass(frozen=True)
class WriteOptions:
    """How to write.

    Attributes:
        portable: only what every inference engine reads: one rank, alpha equal to it, scale in B.
        dtype: dtype of the factors; None keeps the adapter's own (float32 where `portable`, and for a method's own
            tensors).
        drop_extras: with `portable`, leave out what the profile cannot hold instead of refusing.
    """

    portable: bool = False
    dtype: torch.dtype | None = None
    drop_extras: bool = False


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


class Dialect(ABC):
    """One checkpoint dialect; a module of this package offers it as `DIALECT`.

    A plain dialect holds factors and has `write`. One that holds a method's own tensors names the methods in `takes`
    and has `write_native` instead.
    """

    name: ClassVar[str]
    takes: ClassVar[tuple[str, ...]] = ()
    """Methods whose tensors the dialect writes as they are; empty for a dialect that writes factors."""

    @abstractmethod
    def sniff(self, source: Checkpoint) -> float:
        """How sure the dialect is that `source` is its own, from 0 (not at all) to 1."""

    @abstractmethod
    def read(self, source: Checkpoint) -> Adapter:
        """Understand every key of `source`.

        Raises:
            CheckpointError: if the checkpoint is malformed.
            RefusedError: if it is valid but holds something that is not a low-rank update.
        """

    @abstractmethod
    def owns(self, file_name: str) -> bool:
        """Whether a file of that name is one that this dialect writes into its folder."""

    def write(self, adapter: Adapter, folder: Path, options: WriteOptions) -> None:
        """Write `adapter` into the empty `folder`.

        Raises:
            RefusedError: if the dialect cannot hold the adapter.
        """
        raise NotImplementedError(f"dialect {self.name!r} does not write factors")

    def write_native(self, native: Native, folder: Path, options: WriteOptions) -> None:
        """Write the tensors of one of the methods in `takes` into the empty `folder`.

        Raises:
            RefusedError: if the dialect cannot hold the adapter.
        """
        raise NotImplementedError(f"dialect {self.name!r} does not write a method's own tensors")

    def loading_bytes(self, native: Native) -> int | None:
        """Memory that the program which loads the files needs for what it unpacks them to, or None for no more."""
        return None
