"""What a checkpoint dialect is: one kind of adapter file, with what it can do with it as capabilities.

A `Dialect` says what it is called and how its files are known. It is a `Reader` where it reads them, a `Writer` where
it writes factors, and a `NativeWriter` where it writes the tensors of a method as they are.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from adaptzip.checkpoints._effects import effects_of
from adaptzip.checkpoints._losses import Loss
from adaptzip.checkpoints._native import Native
from adaptzip.checkpoints._vetting import vet_parts
from adaptzip.core.adapter import Adapter
from adaptzip.core.effects import Effects
from adaptzip.files.weights import Weights


class BaseTensors(Protocol):
    """The base model's tensors. Its folder is opened when something is first asked of it.

    Names are those of the model in memory, or those that files have for them. Everything raises a BaseModelError where
    the folder holds no base model, or one whose weights are quantised a RefusedError.
    """

    @property
    def names(self) -> Collection[str]:
        """What the base calls its stored tensors itself; in a pipeline after the name of their component."""

    def named_by(self, modules: Sequence[str]) -> BaseTensors:
        """The same by the names that an adapter of these modules has for them, whose prefix may be another.

        Raises:
            BaseModelError: if the base lacks one of the modules.
        """

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a stored tensor, or None where the base lacks it."""

    def read(self, name: str) -> Tensor | None:
        """A copy of a stored tensor, or None where the base lacks it; for a tied embedding the one it is tied to."""


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
        base_config: the base model's config.json, where its folder was given and has one.
        model_config: the parsed config.json beside the weights, as training scripts save whole models with it; None
            where there is none that can be read.
        base: the base model's tensors, where its folder was given.
        modules: the names of modules that it is known to have beside others; () where none is known.
    """

    path: Path
    weights: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    header: bytes | None = None
    config: Mapping[str, Any] | None = None
    config_text: str | None = None
    alpha: float | None = None
    base_config: Mapping[str, Any] | None = None
    model_config: Mapping[str, Any] | None = None
    base: BaseTensors | None = None
    modules: Collection[str] = ()

    @property
    def model_type(self) -> str | None:
        """The base model's, where it is known."""
        found = None if self.base_config is None else self.base_config.get("model_type")
        return found if isinstance(found, str) else None


@dataclass(frozen=True)
class WriteOptions:
    """How to write.

    Attributes:
        portable: only what every inference engine reads: one rank, alpha equal to it, scale in B.
        dtype: dtype of the factors; None keeps the adapter's own (float32 where `portable`, and for a method's own
            tensors).
        coding: one of the dialect's own `codings` to write the factors in, or None.
        base_config: the base model's config.json, where its folder was given and has one.
        named: whether the user named the dialect, so that files have to load where its files do; else they are spelled
            as the source was.
    """

    portable: bool = False
    dtype: torch.dtype | None = None
    coding: str | None = None
    base_config: Mapping[str, Any] | None = None
    named: bool = False


@dataclass(frozen=True)
class Files:
    """The names of a dialect's files.

    Attributes:
        weights: what the file with the tensors is called, best first; a folder that has one holds an adapter. It is a
            safetensors file, or what `torch.save` writes.
        config: what the configuration beside it is called, a JSON object; None where there is none.
        written: the files that the dialect writes, by name or by a pattern such as "part-*.safetensors": an output
            folder of these alone may be replaced.
        magic: what the file with the tensors begins with, where it is neither of the two; the reader opens it itself.
    """

    weights: tuple[str, ...] = ()
    config: str | None = None
    written: tuple[str, ...] = ()
    magic: bytes = b""

    def owns(self, file_name: str) -> bool:
        """Whether a file of that name, or of that path within the folder, is one that the dialect writes."""
        return "/" not in file_name and any(fnmatchcase(file_name, pattern) for pattern in self.written)


@dataclass(frozen=True)
class Signature:
    """What tells a kind of file by its keys.

    Attributes:
        pattern: a regular expression, which is searched for in each key.
        what: what such a file is called in the error about one that can't be read, such as "a kohya LoRA".
    """

    pattern: str
    what: str

    def fits(self, keys: Iterable[str]) -> bool:
        """Whether one of the keys has the pattern in it."""
        return any(map(re.compile(self.pattern).search, keys))


class Dialect(ABC):
    """One kind of adapter file. Stateless; a module of this package, or an entry point of the group
    `adaptzip.dialects`, offers one as an object.

    The extras of an adapter have the keys that PEFT would give them, `base_model.model.` and the name of the base's
    tensor, whatever the dialect's own files call them: `read` renames them, and `write` renames them back. So they
    survive an export to any other dialect, and what they do is known. `meta.config` may hold what it likes; fields by
    PEFT's names, such as `task_type`, are taken for PEFT's. A dialect that means something else by them overrides
    `effects` and `vet`.
    """

    name: ClassVar[str]
    """What `--as` and `meta.dialect` call it: lower case, with hyphens."""
    title: ClassVar[str]
    """What messages call it."""
    judged_by: ClassVar[str] = ""
    """Whose own code says in the tests that what is read or written means what it should."""
    lacks: ClassVar[str] = ""
    """What its files have no place for, or are not read with, in words; "" for nothing worth telling."""
    caution: ClassVar[str] = ""
    """What who writes its files should know of the programs that load them; "" for nothing."""
    files: ClassVar[Files] = Files()
    """How a folder is known to hold one, and what is written."""
    pipelines: ClassVar[bool] = False
    """Whether the names of its modules begin with the component of an image pipeline that they are in."""
    signature: ClassVar[tuple[Signature, ...]] = ()
    """What tells its files by their keys; the first that fits names a file that no dialect can read."""

    def effects(self, adapter: Adapter) -> Effects:
        """What an adapter of this dialect does beside its updates, told by its configuration and its extras' keys.

        Raises:
            CheckpointError: if the configuration is malformed where it tells that.
        """
        return effects_of(adapter)

    def vet(self, adapter: Adapter, where: object) -> None:
        """Refuse an adapter, from wherever it comes, whose configuration or extras say what its factors do not.

        Args:
            adapter: as it was read, or decoded.
            where: what messages call the adapter.

        Raises:
            CheckpointError: if it is malformed.
            RefusedError: if it asks for more than low-rank updates W + s*B@A.
        """
        vet_parts(adapter, where)

    def overlooked(self, adapter: Adapter) -> tuple[str, ...]:
        """The modules of an adapter as it was read that the program it is for would leave out all the same."""
        return ()


class Reader(Dialect):
    """A dialect that reads its files."""

    def sniff(self, source: Checkpoint) -> float:
        """How sure the dialect is that `source` is its own, from 0 (not at all) to 1; 1 where a key bears its
        signature. Two dialects that are equally sure of a file refuse it together."""
        return 1.0 if any(own.fits(source.tensors) for own in self.signature) else 0.0

    def open(self, path: Path) -> Weights:
        """Open a file that begins with the dialect's own magic.

        Raises:
            CheckpointError: if it is malformed.
            OSError: if the system cannot read it.
        """
        raise NotImplementedError(f"{type(self).__name__} has a magic, and no `open`")

    @abstractmethod
    def read(self, source: Checkpoint) -> Adapter:
        """Understand every key of `source`: it becomes part of a module's factors or an extra, or is refused by name.

        The adapter's `meta.dialect` is this dialect's name.

        Raises:
            CheckpointError: if the checkpoint is malformed.
            RefusedError: if it is valid but holds something that is not a low-rank update.
        """


class Writer(Dialect):
    """A dialect that writes factors."""

    codings: ClassVar[tuple[str, ...]] = ()
    """What else than float32, float16 and bfloat16 it writes factors in, as `--dtype` calls it."""

    def spelled(self, adapter: Adapter) -> Adapter:
        """The same update of modules by the names that files of the dialect have for them, cut as these are.

        Raises:
            RefusedError: if the dialect has no name for a module.
        """
        return adapter

    def lost(self, adapter: Adapter, options: WriteOptions) -> tuple[Loss, ...]:
        """What of `adapter`, as it is `spelled`, the dialect has no room for: it is refused, or left out where the user
        accepts that, before `write` is called."""
        return ()

    @abstractmethod
    def write(self, adapter: Adapter, folder: Path, options: WriteOptions) -> None:
        """Write `adapter`, without what is `lost`, into the empty `folder`.

        Raises:
            RefusedError: if the dialect cannot hold the adapter.
            UsageError: if it cannot be written with these options.
        """


class NativeWriter(Dialect):
    """A dialect that writes a method's own tensors."""

    takes: ClassVar[tuple[str, ...]]
    """Methods whose tensors the dialect writes as they are."""

    @abstractmethod
    def write_native(self, native: Native, folder: Path, options: WriteOptions) -> None:
        """Write the tensors of one of the methods in `takes` into the empty `folder`.

        Raises:
            RefusedError: if the dialect cannot hold the adapter.
            UsageError: if it cannot be written with these options.
        """

    def native(self, source: Checkpoint) -> Native | None:
        """The tensors of a checkpoint of the dialect's own, to be written again; None where there is but one form.

        Raises:
            CheckpointError, RefusedError: as `Reader.read`.
        """
        return None

    def loading_bytes(self, native: Native) -> int | None:
        """Memory that the program which loads the files needs for what it unpacks them to, or None for no more."""
        return None
