"""A base model in GGUF: its files, opened without trusting them, and what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adaptzip.checkpoints._gguf.architectures import Architecture, known_names, named
from adaptzip.checkpoints._gguf.bases import ARCHITECTURE, header_of
from adaptzip.checkpoints._gguf.header import AGAIN, Header, check_places
from adaptzip.errors import BaseModelError, CheckpointError, RefusedError
from adaptzip.restoring.merging.gguf.numbers import byte_count, type_name

_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_TYPE = "general.type"


@dataclass(frozen=True)
class BaseTensor:
    """A tensor of a base model.

    Attributes:
        name: llama.cpp's.
        shape: as torch has it, rows first.
        kind: ggml's number of its type.
        type: ggml's name of it.
        file: the number of the file that holds it.
        begin: the byte there where it begins.
        bytes: how many there are.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    type: str
    file: int
    begin: int
    bytes: int


@dataclass(frozen=True, eq=False)
class GgufBase:
    """A base model.

    Attributes:
        path: the file that was asked for, the first of several.
        files: all files.
        header: of the first file, which says what the model is.
        architecture: its names of transformers' modules.
        tensors: of all files, by name, in order.
    """

    path: Path
    files: tuple[Path, ...]
    header: Header
    architecture: Architecture
    tensors: Mapping[str, BaseTensor]

    def heads(self) -> tuple[int, int]:
        """How many heads of queries and of keys it has.

        Raises:
            RefusedError: if it does not tell, or has another number in each layer.
        """
        stem = f"{self.architecture.name}.attention.head_count"
        keys = (stem, f"{stem}_kv" if f"{stem}_kv" in self.header.values else stem)
        told = [self.header.text(key) or "" for key in keys]
        if not all(text.isdecimal() and len(text) < 10 and int(text) > 0 for text in told):
            raise RefusedError(
                f"{self.path}: {stem} is no one number for all layers, by which the rows of q and k are turned",
                hint="merge into the model in transformers' form, and convert that",
            )
        return int(told[0]), int(told[1])


def open_base(path: Path) -> GgufBase:
    """Open a base model, of several files where it is the first of them.

    Raises:
        BaseModelError: if a file is missing, malformed or truncated, or a tensor is of no type that is known.
        RefusedError: if it is no model, of an unknown architecture, or another than the first file of several.
    """
    header = _header(path)
    files = _files(path, header)
    kind, name = header.text(_TYPE) or "model", header.text(ARCHITECTURE) or ""
    if kind != "model":
        raise RefusedError(f"{path}: its {_TYPE} is {kind[:40]!r}, expected 'model'", hint="give the base model itself")
    architecture = named(name)
    if architecture is None:
        raise RefusedError(
            f"{path}: is of the architecture {name[:40]!r}; adapters are merged into {', '.join(known_names())}",
            hint="merge into the model in transformers' form, and convert that with llama.cpp's own script",
        )
    tensors: dict[str, BaseTensor] = {}
    for number, file in enumerate(files):
        own = header if file == path else _header(file)
        _check_part(file, number, len(files), own)
        for tensor in _tensors(file, number, own):
            if tensor.name in tensors:
                raise BaseModelError(f"{file}: the tensor {tensor.name} is in another file as well", hint=AGAIN)
            tensors[tensor.name] = tensor
    total = header.text("split.tensors.count")
    if len(files) > 1 and total != str(len(tensors)):
        raise BaseModelError(f"{path}: has {len(tensors)} tensors in all files, expected {total}", hint=AGAIN)
    return GgufBase(path, files, header, architecture, tensors)


@contextmanager
def _malformed(path: Path) -> Iterator[None]:
    """Turn errors about a file's content, and the system's, into those about a base model."""
    try:
        yield
    except CheckpointError as error:
        raise BaseModelError(str(error), hint=error.hint) from error
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        raise BaseModelError(f"{path}: {what}", hint="give the GGUF file of the base model") from error


def _header(path: Path) -> Header:
    with _malformed(path):
        return header_of(path)


def _files(path: Path, header: Header) -> tuple[Path, ...]:
    """All files of the model that `path` is the first file of."""
    count = header.text("split.count") or "1"
    if count in ("0", "1"):
        return (path,)
    found = _SPLIT.fullmatch(path.name)
    if found is None or f"{count:>05}" != found[3]:
        raise RefusedError(
            f"{path}: is one of {count[:9]} files, whose names should end with -00001-of-{count[:9]:>05}.gguf",
            hint="give the files the names that they were downloaded under, or join them with llama-gguf-split --merge",
        )
    if int(found[2]) != 1:
        raise RefusedError(
            f"{path}: is file {int(found[2])} of {count}",
            hint=f"give the first: {found[1]}-00001-of-{found[3]}.gguf",
        )
    return tuple(path.with_name(f"{found[1]}-{number:05}-of-{found[3]}.gguf") for number in range(1, int(found[3]) + 1))


def _check_part(file: Path, number: int, count: int, header: Header) -> None:
    if count > 1 and (header.text("split.no"), header.text("split.count")) != (str(number), str(count)):
        raise BaseModelError(f"{file}: does not say that it is file {number + 1} of {count}", hint=AGAIN)


def _tensors(file: Path, number: int, header: Header) -> Iterator[BaseTensor]:
    kinds, sizes = [], []
    for entry in header.entries:
        name = type_name(entry.kind)
        if name is None:
            raise BaseModelError(
                f"{file}: tensor {entry.key} is of ggml's type {entry.kind}, which the package gguf does not know",
                hint="update gguf, or download the file again",
            )
        size = byte_count(entry.kind, entry.shape)
        if size is None:
            raise BaseModelError(
                f"{file}: tensor {entry.key} {list(entry.shape)} in {name} has rows that no blocks fill", hint=AGAIN
            )
        kinds.append(name)
        sizes.append(size)
    with _malformed(file):
        check_places(file, header, sizes)
    for entry, name, size in zip(header.entries, kinds, sizes, strict=True):
        begin = header.start + entry.begin
        yield BaseTensor(entry.key, entry.shape, entry.kind, name, number, begin, size)
