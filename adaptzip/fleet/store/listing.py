"""Which adapters a store holds: the files are the truth, and the index saves reading them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptzip.adz.container.reader import open_adz
from adaptzip.core.calling import public
from adaptzip.errors import AdaptzipError
from adaptzip.files.names import SHARED
from adaptzip.files.trees import Tree, content_of
from adaptzip.fleet.store.index import Row, read_rows, row_of
from adaptzip.fleet.store.layout import adapter_file, adapter_name, existing


@dataclass(frozen=True)
class Listing:
    """What a store holds.

    Attributes:
        rows: of every adapter whose file is there and sound, by name, sorted; from the index, or else from the file.
        unlisted: names whose file has no row, or is of another size than its row says; their rows are of the file.
        missing: names whose row has no file.
        damaged: what is wrong with files that are no adapters, by name.
        shared: bytes of what adapters share, by file.
    """

    rows: Mapping[str, Row]
    unlisted: tuple[str, ...]
    missing: tuple[str, ...]
    damaged: Mapping[str, str]
    shared: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """Of all adapters' files."""
        return sum(row.bytes for row in self.rows.values())


@public
def list_store(store: str | Path) -> Listing:
    """What a store holds, or a plain folder of `.adz` files.

    Args:
        store: a folder, or a bucket as fsspec names it.

    Returns:
        Rows by name, what is wrong with others, and the sizes of what adapters share.

    Raises:
        CheckpointError: if the store is not there, or cannot be read.
        FormatError, RefusedError: if its index is damaged, or newer.

    Example:
        >>> row = adaptzip.add_to_store("my-adapter", "store", "support")
        >>> found = adaptzip.list_store("store")
        >>> list(found.rows), found.bytes == row.bytes
        (['support'], True)
    """
    return rows_of(existing(store))


def rows_of(tree: Tree) -> Listing:
    """What a store holds, or a plain folder of `.adz` files, whose heads are read.

    Raises:
        FormatError, RefusedError: if the index is damaged or newer.
        CheckpointError: if the store is not there, or cannot be read.
    """
    sizes = tree.sizes()
    files = {name: size for file, size in sizes.items() if (name := adapter_name(file)) is not None}
    indexed = read_rows(tree)
    known = {name: row for name, row in indexed.items() if files.get(name) == row.bytes}
    found, damaged = _read(tree, [name for name in files if name not in known])
    shared = {file: size for file, size in sizes.items() if file.startswith(f"{SHARED}/")}
    rows = dict(sorted({**known, **found}.items()))
    return Listing(rows, tuple(found), tuple(name for name in indexed if name not in files), damaged, shared)


def _read(tree: Tree, names: list[str]) -> tuple[dict[str, Row], dict[str, str]]:
    """The rows of files, and what is wrong with those that are no adapters."""
    found, damaged = {}, {}
    for name in names:
        try:
            found[name] = row_in(tree, name)
        except AdaptzipError as error:
            damaged[name] = str(error)
    return found, damaged


def row_in(tree: Tree, name: str) -> Row:
    """The row of an adapter as its file tells it.

    Raises:
        UsageError: if it is no name of an adapter.
        CheckpointError, FormatError, RefusedError: if the file is missing, damaged or newer.
    """
    content = content_of(tree, adapter_file(name), "a .adz")
    return row_of(name, open_adz(content), content)
