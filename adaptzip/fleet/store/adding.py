"""Putting one adapter into a store: its artefact first, then its file, then its row."""

from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path
from typing import Any

from adaptzip.adz.container.frame import is_adz
from adaptzip.adz.container.reader import open_adz
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.resolve import artefact_for, artefact_in
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Compressed
from adaptzip.errors import AdaptzipError, OutputError, RefusedError, UsageError, naming, warn
from adaptzip.files.hub_cache import named_by_cache
from adaptzip.files.trees import Tree
from adaptzip.fitting.compression import compress
from adaptzip.fleet.store.index import Row, row_of, write_rows
from adaptzip.fleet.store.layout import adapter_file, adapter_name, artefact_file
from adaptzip.models.hub import adapter_path, on_the_hub


def add(
    tree: Tree,
    source: str | Path | Adapter | Compressed,
    name: str | None = None,
    *,
    group: str | None = None,
    basis: str | Path | Basis | None = None,
    force: bool = False,
    **settings: Any,
) -> Row:
    """Put an adapter into a store.

    Args:
        tree: the store.
        source: what `compress` takes; a `.adz`, or one in memory, is taken as it is.
        name: what the store calls it, as `team/support`; None takes the name of the source's file or folder.
        group: what it is put together with others under.
        basis: what it is compressed with, or what a `.adz` refers to, unless the store has it.
        force: replace an adapter of this name.
        settings: more that `compress` takes, such as `budget=`.

    Returns:
        Its row in the index.

    Raises:
        UsageError: if the name is none, or settings are given for a `.adz`.
        OutputError: if the store has an adapter of this name without `force`, or one whose name differs by case alone,
            or cannot be written.
        RefusedError: if it refers to an artefact that was not given and is not in the store.
        CheckpointError, FormatError, CheckFailedError: as `compress` and `open`.

    Warns with an AdaptzipWarning where it stands on another adapter, which no store keeps for it.
    """
    named = name or default_name(source)
    file = _free(tree, named, force=force)
    compressed, content = _compressed(source, basis, settings)
    artefact, shared = _artefact(tree, compressed, basis)
    if compressed.basis is not None and compressed.basis.source == "reference":
        warn(f"{named}: stands on another adapter's A, without which nobody who has the store alone can decode it")
    if artefact is not None and shared is not None:
        tree.write(artefact, shared)
    tree.write(file, content)
    # Tidying may have taken it for one that no adapter refers to, before there was one.
    if artefact is not None and shared is not None and tree.size(artefact) is None:
        tree.write(artefact, shared)
    row = row_of(named, compressed, content, group)
    write_rows(tree, [row])
    return row


def default_name(source: str | Path | Adapter | Compressed) -> str:
    """What an adapter is called by its file or folder.

    Raises:
        UsageError: if it has no such name.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        named, fetched = on_the_hub(source), named_by_cache(path)
        repository = fetched[0] if fetched is not None else named.repository if named is not None else ""
        if repository:
            return repository.rpartition("/")[2]
        found = path.resolve() if path.name in ("", "..") else path
        if found.name:
            return found.stem if found.is_file() else found.name
    raise UsageError("the adapter has no name to be stored under", hint="name it with `name=NAME`")


def _free(tree: Tree, name: str, *, force: bool) -> str:
    """The file of a name that may be written."""
    file = adapter_file(name)
    for other in filter(None, map(adapter_name, tree.names())):
        if other == name and not force:
            raise OutputError(f"{tree.location}: has an adapter {name!r}", hint="replace it with `force=True`")
        if other != name and _folded(other) == _folded(name):
            raise OutputError(
                f"{tree.location}: has an adapter {other!r}, whose name differs from {name!r} by case or accents' "
                "spelling alone",
                hint="some systems know no such difference: give another name with `name=NAME`",
            )
    return file


def _folded(name: str) -> str:
    """What names have in common that some file systems take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _compressed(
    source: str | Path | Adapter | Compressed, basis: str | Path | Basis | None, settings: dict[str, Any]
) -> tuple[Compressed, bytes]:
    """What is stored, and its bytes, all of which are checked."""
    path = adapter_path(source) if isinstance(source, str | Path) else None
    content = path.read_bytes() if path is not None and is_adz(path) else None
    if content is not None:
        with naming(path, AdaptzipError):
            ready = open_adz(content)
    elif isinstance(source, Compressed):
        ready = source
    else:
        made = compress(path or source, basis=basis, **settings)
        return made, made.to_bytes()
    if settings:
        raise UsageError(
            f"`{next(iter(settings))}=` was given, but a .adz is stored as it is",
            hint="leave it out, or name its source",
        )
    with naming(path or "the adapter", AdaptzipError):
        again = ready.to_bytes()
    return ready, content or again


def _artefact(tree: Tree, compressed: Compressed, basis: str | Path | Basis | None) -> tuple[str | None, bytes | None]:
    """The file of what an adapter refers to, and its content where it was given, or the store has it not."""
    reference = compressed.basis
    file = None if reference is None else artefact_file(reference)
    if reference is None or file is None:
        return None, None
    if basis is None:
        if tree.size(file) is None:
            raise RefusedError(
                f"the adapter refers to {file}, which {tree.location} lacks", hint="add `basis=FILE`, the very one"
            )
        return file, None
    found = artefact_for(reference, basis)
    if not isinstance(basis, Basis):
        path = Path(basis)
        return file, (artefact_in(path, reference.hash) if path.is_dir() else path).read_bytes()
    with tempfile.TemporaryDirectory(prefix="adaptzip-") as folder:
        path = Path(folder) / "shared"
        write_basis(found, path)
        artefact_for(reference, path)
        return file, path.read_bytes()
