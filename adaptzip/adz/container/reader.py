"""Reading a `.adz` file, as if whoever made it meant harm: every number is checked before it is used."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from adaptzip.adz.container.header import BLANK_HASH, Header, parse_metadata
from adaptzip.adz.container.streams import parse_frame
from adaptzip.adz.container.tables import parse_config, read_tables
from adaptzip.core.compressed import Compressed, PackedExtras
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipError, FormatError, naming
from adaptzip.files.digest import digest

_STREAMS = ("tables", "shared", "modules", "basis", "extras")
_ALWAYS = {"tables", "modules"}


@dataclass(frozen=True)
class Opened:
    """A file's header and streams, nothing decoded.

    Attributes:
        header: the checked metadata.
        start: the file's bytes before its streams.
        streams: bytes of each stream in file order, mapped from the file.
    """

    header: Header
    start: memoryview
    streams: Mapping[str, memoryview]

    @property
    def header_bytes(self) -> int:
        """Size of the file's start."""
        return len(self.start)

    def check_hash(self) -> None:
        """Compare the file with its hash.

        Raises:
            FormatError: if a byte of it was changed.
        """
        before, found, after = bytes(self.start).partition(self.header.hash.encode())
        if digest([before, BLANK_HASH.encode(), after, *self.streams.values()]) != self.header.hash or not found:
            raise FormatError("the file is damaged: its hash does not match", hint="fetch it again")


def read_header(path: str | Path) -> Opened:
    """Map a file and check its header; no stream is read.

    Raises:
        FormatError: if it is no `.adz` file or malformed.
        RefusedError: if it needs a newer adaptzip.
    """
    path = Path(path)
    with naming(path, AdaptzipError):
        view = _map(path)
        start = view[: 8 + int.from_bytes(view[:8], "little")]
        metadata, spans = parse_frame(start, len(view))
        header = parse_metadata(metadata)
        if tuple(spans) != tuple(name for name in _STREAMS if name in spans) or not spans.keys() >= _ALWAYS:
            raise FormatError(f"its streams are {', '.join(spans)}, not those of the format")
    streams = {name: view[first:end] for name, (first, end) in spans.items()}
    return Opened(header, start, streams)


def open_adz(path: str | Path) -> Compressed:
    """Open a file: its hash and header are checked, no module is decoded.

    Raises:
        FormatError: if it is damaged.
        RefusedError: if it needs a newer adaptzip.

    Example:
        >>> made = adaptzip.compress("my-adapter", "small.adz", budget="20%")
        >>> opened = adaptzip.open("small.adz")
        >>> opened.modules == made.modules, opened.provenance == made.provenance
        (True, True)
    """
    opened = read_header(path)
    with naming(Path(path), AdaptzipError):
        opened.check_hash()
        return _compressed(opened)


def _compressed(opened: Opened) -> Compressed:
    header = opened.header
    tables = read_tables(opened.streams["tables"])
    config = parse_config(tables.config)
    if bool(tables.extras) != ("extras" in opened.streams):
        raise FormatError("the table of extras and the stream of extras do not belong together")
    if bool(tables.basis_sizes) != ("basis" in opened.streams):
        raise FormatError("the sizes of the basis and the stream of the basis do not belong together")
    for what, numbers in (("gains", tables.gains), ("sizes of the basis", tables.basis_sizes)):
        if numbers and len(numbers) != len(header.sites):
            raise FormatError(f"there are {len(numbers)} {what} for {len(header.sites)} modules")
    embedded = header.basis is not None and header.basis.source == "embedded"
    if embedded != ("basis" in opened.streams):
        raise FormatError("the stream of the basis and what the metadata says of it do not belong together")
    lossless = bool(header.config.get("lossless", False))
    if lossless and (tables.gains or header.basis is not None or "shared" in opened.streams):
        raise FormatError("a lossless file has gains, a basis or shared tensors")
    grouped = b"" if tables.lengths else opened.streams["modules"]
    if lossless and grouped:
        raise FormatError("a lossless file has no index of its modules")
    return Compressed(
        method=header.method,
        method_version=header.method_version,
        config=header.config,
        sites=header.sites,
        max_rank=header.max_rank,
        chunks=() if grouped else _chunks(opened, tables.lengths),
        grouped=grouped,
        step=header.step,
        provenance=header.provenance,
        extras=PackedExtras(tables.extras, opened.streams.get("extras", b"")),
        meta=Meta(
            dialect=header.dialect,
            config=config,
            base_model=header.base_model or _base_model(config),
            header=tables.source_header or None,
            config_text=tables.config.decode() if lossless and tables.config else None,
        ),
        dtype=header.dtype,
        shared=opened.streams.get("shared", b""),
        gains=tables.gains,
        basis=header.basis,
        basis_sizes=tables.basis_sizes,
        basis_payload=opened.streams.get("basis", b""),
        renamed=header.renamed,
    )


def _base_model(config: Mapping[str, Any]) -> str | None:
    name = config.get("base_model_name_or_path")
    return name if isinstance(name, str) else None


def _chunks(opened: Opened, lengths: Sequence[int]) -> Sequence[memoryview]:
    modules = opened.streams["modules"]
    if len(lengths) != len(opened.header.sites):
        raise FormatError(f"the index has {len(lengths)} entries for {len(opened.header.sites)} modules")
    if sum(lengths) != len(modules):
        raise FormatError(f"the index counts {sum(lengths)} bytes of modules, the file holds {len(modules)}")
    ends = accumulate(lengths)
    return [modules[end - length : end] for length, end in zip(lengths, ends, strict=True)]


def _map(path: Path) -> memoryview:
    try:
        with path.open("rb") as handle:
            if path.stat().st_size == 0:
                raise FormatError("the file is empty")
            return memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise FormatError("no such file", hint="check its name") from error
    except IsADirectoryError as error:
        raise FormatError(
            "is a folder, expected a .adz file", hint="compress the adapter in it first: `adaptzip compress FOLDER`"
        ) from error
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}") from error
