"""What a checkpoint dialect is: something that recognises, reads and writes one kind of adapter file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from adaptzip.adapter import Adapter

if TYPE_CHECKING:
    from adaptzip.compressed import Site


@dataclass(frozen=True, eq=False)
class Source:
    """An opened checkpoint, not yet understood.

    Attributes:
        path: what the user named, for messages.
        weights: the file that holds the tensors.
        tensors: every tensor of the file by its key, memory mapped where the file allows it.
        metadata: the safetensors metadata, empty for other files.
        header: the safetensors header, byte for byte, or None for other files.
        config: the parsed configuration beside the weights in file order, or None where there is none.
        config_text: its text.
        alpha: lora_alpha as the user gave it, or None.
    """

    path: Path
    weights: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    header: bytes | None = None
    config: Mapping[str, Any] | None = None
    config_text: str | None = None
    alpha: float | None = None


@dataclass(frozen=True)
class WriteOptions:
    """How to write.

    Attributes:
        portable: only what every inference engine reads: one rank, alpha equal to it, scale in B.
        dtype: dtype of the factors; None keeps the adapter's own (float32 where `portable`).
        drop_extras: with `portable`, leave out what the profile cannot hold instead of refusing.
    """

    portable: bool = False
    dtype: torch.dtype | None = None
    drop_extras: bool = False


@dataclass(frozen=True, eq=False)
class NativeModule:
    """One module in a method's own tensors.

    Attributes:
        tensors: the decoded tensors by role, with the module's basis under `basis.U` and `basis.V` where it has one.
        A, B: the factors that they stand for, A (rank, in) and B (out, rank).
        site: the update's shape and how the base weight lies.
    """

    tensors: Mapping[str, Tensor]
    A: Tensor
    B: Tensor
    site: Site


@dataclass(frozen=True, eq=False)
class Native:
    """A compressed adapter in its method's own tensors, for dialects that write them as they are.

    Attributes:
        method: the method's name.
        config: its configuration.
        shared: the tensors that all modules share, by role.
        modules: by module name; modules whose update is zero are left out.
        adapter: the same adapter as factors, with its extras and origin.
    """

    method: str
    config: Mapping[str, Any]
    shared: Mapping[str, Tensor]
    modules: Mapping[str, NativeModule]
    adapter: Adapter


class Dialect(Protocol):
    """One checkpoint dialect; a module of this package offers it as `DIALECT`."""

    name: str

    def sniff(self, source: Source) -> float:
        """How sure the dialect is that `source` is its own, from 0 (not at all) to 1."""

    def read(self, source: Source) -> Adapter:
        """Understand every key of `source`.

        Raises:
            CheckpointError: if the checkpoint is malformed.
            RefusedError: if it is valid but holds something that is not a low-rank update.
        """

    def write(self, adapter: Adapter, folder: Path, options: WriteOptions) -> None:
        """Write `adapter` into the empty `folder`.

        Raises:
            RefusedError: if the dialect cannot hold the adapter.
        """

    def owns(self, file_name: str) -> bool:
        """Whether a file of that name is one that this dialect writes into its folder."""
