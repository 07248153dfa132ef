"""Removing adapters from a store, and what nothing refers to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptzip.adz.container.reader import open_adz
from adaptzip.core.calling import public
from adaptzip.errors import AdaptzipError, CheckpointError
from adaptzip.files.trees import Tree, content_of
from adaptzip.fleet.store.index import compact, read_rows, segments, write_rows
from adaptzip.fleet.store.layout import (
    WORK,
    adapter_file,
    adapter_name,
    artefact_file,
    artefact_files,
    artefact_hash,
    artefact_of,
    aside,
    existing,
    is_artefact,
    is_aside,
    summary_in,
    summary_of,
)
from adaptzip.fleet.store.listing import Listing, rows_of

_NOTES = (".json", ".jsonl")
"""How the names of jobs' notes end; what else they keep may be large, and names nothing."""
_SEEN = "artefacts"
"""Where a job over adapters tells which bases and banks it saw, and whether it uses them."""


@dataclass(frozen=True)
class Tidied:
    """What was done, or would be.

    Attributes:
        artefacts: files that no adapter and no running job refers to, and their sizes; removed.
        drafts: what killed runs left; removed.
        rows: rows without a file; removed.
        added: adapters whose rows were missing or of another file; made from the files.
        segments: how many of the index were joined; 0 where there was one at most.
        damaged: files that are no sound adapters, which stay, and for whose sake all artefacts stay.
        put_back: artefacts that adapters refer to, and that a run which was killed had set aside.
    """

    artefacts: dict[str, int]
    drafts: tuple[str, ...]
    rows: tuple[str, ...]
    added: tuple[str, ...]
    segments: int
    damaged: tuple[str, ...]
    put_back: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of the artefacts that were removed."""
        return sum(self.artefacts.values())


@public
def remove_from_store(store: str | Path, names: Sequence[str]) -> int:
    """Remove adapters from a store. What they referred to stays until `tidy_store`.

    Args:
        store: a folder, or a bucket as fsspec names it.
        names: what the store calls them.

    Returns:
        The bytes of their files.

    Raises:
        UsageError: if one is no name of an adapter.
        CheckpointError: if the store is not there, or has none of a name; nothing is removed then.
        OutputError: if it cannot be written.

    Example:
        >>> row = adaptzip.add_to_store("my-adapter", "store", "support")
        >>> adaptzip.remove_from_store("store", ["support"]) == row.bytes
        True
        >>> list(adaptzip.list_store("store").rows)
        []
    """
    tree = existing(store)
    wanted = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    files = {name: adapter_file(name) for name in wanted}
    sizes = {name: tree.size(file) for name, file in files.items()}
    rows = read_rows(tree)
    absent = [name for name, size in sizes.items() if size is None and name not in rows]
    if absent:
        raise CheckpointError(
            f"{store}: has no adapter {absent[0]!r}", hint="give a name that `adaptzip store ls` shows"
        )
    # A row without a file is not believed, and a file without a row is read: in between nothing is wrong.
    for file in files.values():
        tree.remove(file)
    write_rows(tree, [], removed=[name for name in wanted if name in rows])
    return sum(size for size in sizes.values() if size is not None)


@public
def tidy_store(store: str | Path, *, dry_run: bool = False) -> Tidied:
    """Remove from a store what nothing refers to, and join the segments of its index; never the file of an adapter.

    Args:
        store: a folder, or a bucket as fsspec names it.
        dry_run: say what would be done, and do nothing.

    Returns:
        What was done, or would be.

    Raises:
        CheckpointError, FormatError, RefusedError: as `list_store`.
        OutputError: if it cannot be written.

    Example:
        >>> row = adaptzip.add_to_store("my-adapter", "store", "support")
        >>> adaptzip.tidy_store("store").bytes
        0
    """
    return gc(existing(store), dry_run=dry_run)


def gc(tree: Tree, *, dry_run: bool = False) -> Tidied:
    """Remove artefacts that no adapter refers to, drafts of killed runs and rows without files; make missing rows, and
    join the index's segments.

    Other runs may add adapters meanwhile. What is told of an artefact that would go is read from the adapters' own
    files.

    Args:
        dry_run: say what would be done, and do nothing.

    Raises:
        FormatError, RefusedError, CheckpointError: if the store cannot be read.
        OutputError: if it cannot be written.
    """
    listing = rows_of(tree)
    put_back = () if dry_run else _put_back(tree, listing)
    wanted = {row.shared for row in listing.rows.values()}
    loose = {f: size for f, size in listing.shared.items() if is_artefact(f) and artefact_hash(f) not in wanted}
    needed, unreadable = _needed(tree, listing.rows) if loose else (set(), [])
    damaged = (*listing.damaged, *unreadable)
    kept = loose.keys() if damaged else needed | _noted(tree, loose)
    artefacts = {file: size for file, size in loose.items() if file not in kept}
    rows = [listing.rows[name] for name in listing.unlisted]
    joined = len(segments(tree)) + bool(rows or listing.missing)
    # What is set aside may be what a damaged adapter refers to.
    drafts = tuple(draft for draft in tree.left_over() if not (damaged and is_aside(draft)))
    if not dry_run:
        _remove(tree, artefacts, {name: row.bytes for name, row in listing.rows.items()})
        for draft in drafts:
            tree.remove(draft)
        write_rows(tree, rows, removed=listing.missing)
        compact(tree)
    return Tidied(artefacts, drafts, listing.missing, listing.unlisted, joined if joined > 1 else 0, damaged, put_back)


def _remove(tree: Tree, artefacts: Iterable[str], known: Mapping[str, int]) -> None:
    """Remove artefacts; one that an adapter refers to that another run added meanwhile is put back. Until that is clear
    they lie aside, so that a run that is killed loses none.

    Args:
        known: sizes of the adapters that refer to none of them.
    """
    kept = {file: content for file in artefacts if (content := _unless_gone(tree, file)) is not None}
    for file, content in kept.items():
        tree.write(aside(file), content)
        tree.remove(file)
    now = {name: size for file, size in tree.sizes().items() if kept and (name := adapter_name(file)) is not None}
    needed, damaged = _needed(tree, [name for name, size in now.items() if known.get(name) != size])
    for file in kept.keys() if damaged else needed & kept.keys():
        tree.write(file, kept[file])
    for file in kept:
        tree.remove(aside(file))


def _put_back(tree: Tree, listing: Listing) -> tuple[str, ...]:
    """Put back artefacts that a run which was killed had set aside, and that adapters refer to."""
    found = []
    for content in sorted({row.shared for row in listing.rows.values() if row.shared is not None}):
        lost = [file for file in artefact_files(content) if tree.size(aside(file)) is not None]
        if lost and artefact_of(tree, content) is None:
            tree.write(lost[0], content_of(tree, aside(lost[0]), "a shared artefact"))
            found.append(lost[0])
    return tuple(found)


def _needed(tree: Tree, names: Iterable[str]) -> tuple[set[str], list[str]]:
    """The artefacts that adapters refer to by their files, and the adapters whose files do not tell."""
    found, damaged = set(), []
    for name in names:
        try:
            reference = open_adz(content_of(tree, adapter_file(name), "a .adz")).basis
            found.add(None if reference is None else artefact_file(reference))
        except AdaptzipError:
            damaged.append(name)
    return {file for file in found if file is not None}, damaged


def _noted(tree: Tree, artefacts: Iterable[str]) -> set[str]:
    """The artefacts that notes of jobs name, whose adapters may be still to come: not those that a job over adapters,
    which is done, saw and left."""
    hashes = {file: artefact_hash(file).encode() for file in artefacts}
    files = [file for file in tree.names(WORK) if file.endswith(_NOTES)] if hashes else []
    notes = {file: note for file in files if (note := _unless_gone(tree, file)) is not None}
    seen = {run: _seen(notes[summary_of(run)]) for run in _runs(notes) if summary_of(run) in notes}
    over_adapters = {run for run, found in seen.items() if found is not None}
    left = {file for found in seen.values() for file, used in (found or {}).items() if not used}
    found: set[str] = set()
    for file, note in notes.items():
        run = file.split("/")[1]
        if run not in over_adapters:
            named = {artefact for artefact, content in hashes.items() if content in note}
            found |= named - left if run in seen else named
    return found


def _unless_gone(tree: Tree, file: str) -> bytes | None:
    """The content of a file; None where another run took it away meanwhile."""
    try:
        return tree.read(file)
    except FileNotFoundError:
        return None


def _runs(notes: Iterable[str]) -> set[str]:
    return {file.split("/")[1] for file in notes}


def _seen(note: bytes) -> dict[str, bool] | None:
    """The bases and banks that a job over adapters saw, and whether it uses each; None of any other job."""
    rows = (summary_in(note) or {}).get(_SEEN)
    if not isinstance(rows, list):
        return None
    told = [row for row in rows if isinstance(row, dict) and isinstance(row.get("file"), str)]
    return {row["file"]: bool(row.get("used", True)) for row in told}
