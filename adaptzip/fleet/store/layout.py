"""Where things lie in a store: adapters by name, what they share by hash, and the rows of the index."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

from adaptzip.core.basis import BasisReference
from adaptzip.errors import CheckpointError, UsageError
from adaptzip.files.names import ARTEFACTS, SHARED
from adaptzip.files.trees import Tree, tree_at
from adaptzip.files.trees.folder import DRAFTS
from adaptzip.files.trees.saying import checked_name

ADAPTER = ".adz"
INDEX, WORK = "index", "work"
SUMMARY = "summary"
"""The stage of a job whose one task tells what came of it, when it is done."""
_OTHERS = (SHARED, INDEX, WORK)
"""Folders at a store's root that hold no adapters; systems that know no case know no other of these either."""
_HASH = re.compile(r"[\w-]{22}", re.ASCII)


def located(store: str | Path) -> str:
    """Where a store is, for workers that run elsewhere.

    Raises:
        UsageError: if it has no name.
    """
    words = str(store)
    if not words:
        raise UsageError("the store has no name", hint="name a folder or a bucket")
    return words if "://" in words else str(Path(words).absolute())


def existing(store: str | Path) -> Tree:
    """A store that is to be read.

    Raises:
        CheckpointError: if it is not there.
    """
    found = tree_at(located(store))
    if not found.there():
        raise CheckpointError(
            f"{store}: no such folder or bucket", hint="check its name; `adaptzip store add` makes it"
        )
    return found


def adapter_file(name: str) -> str:
    """The file of the adapter `name`, which may have folders, as `team/support`.

    Raises:
        UsageError: if it is no name of an adapter.
    """
    parts = checked_name(name).split("/")
    if _apart(parts) or any(part.startswith(".") for part in parts):
        raise UsageError(f"{name!r} is no name of an adapter in a store", hint="choose one with other folders")
    return checked_name(name + ADAPTER)


def adapter_name(file: str) -> str | None:
    """The name of the adapter in a file; None for a file that is none."""
    if not file.endswith(ADAPTER) or _apart(file.split("/")):
        return None
    return file.removesuffix(ADAPTER) or None


def folded(name: str) -> str:
    """What names have in common that some file systems take for one: case, and how accents are spelt."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _apart(parts: list[str]) -> bool:
    return len(parts) > 1 and parts[0].casefold() in _OTHERS


def artefact_files(content: str) -> tuple[str, ...]:
    """The names that the artefact of a hash may have.

    Raises:
        UsageError: if it is no hash.
    """
    if _HASH.fullmatch(content) is None:
        raise UsageError(f"{content!r} is no hash of a basis or bank", hint="expected 22 characters of base64url")
    return tuple(f"{SHARED}/{content}{suffix}" for suffix in ARTEFACTS.values())


def artefact_file(reference: BasisReference) -> str | None:
    """Where the artefact lies that an adapter refers to; None where it refers to none.

    Raises:
        UsageError: if its hash is none.
    """
    if reference.source not in ARTEFACTS:
        return None
    artefact_files(reference.hash)
    return artefact_named(reference.source, reference.hash)


def artefact_named(source: str, content: str) -> str:
    """Where an artefact lies, by what adapters call the source of their basis, "file" or "bank", and its hash."""
    return f"{SHARED}/{content}{ARTEFACTS[source]}"


def aside(file: str) -> str:
    """Where an artefact lies while it is removed, until it is clear that no adapter refers to it."""
    return f"{DRAFTS}/{PurePosixPath(file).name}"


def is_aside(file: str) -> bool:
    """Whether a draft is an artefact that was set aside."""
    return is_artefact(f"{SHARED}/{PurePosixPath(file).name}")


def summary_of(run: str) -> str:
    """The note on what came of a job."""
    return f"{WORK}/{run}/{SUMMARY}/000000.json"


def summary_in(note: bytes) -> dict[str, Any] | None:
    """What a note tells that came of a job; None where it is no such note, as of another version, or damaged."""
    try:
        found = json.loads(note)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def artefact_of(tree: Tree, content: str) -> str | None:
    """The artefact of a hash; None where the store has none."""
    return next((file for file in artefact_files(content) if tree.size(file) is not None), None)


def artefact_hash(file: str) -> str:
    """The hash in the name of an artefact."""
    return PurePosixPath(file).stem


def is_store(folder: Path) -> bool:
    """Whether a folder is a store: it has an index, or what adapters share, under names that these have."""
    segments = (folder / INDEX).glob("[0-9]*-*.jsonl")
    shared = (folder / SHARED).glob("*.b*")
    return next(segments, None) is not None or any(is_artefact(f"{SHARED}/{file.name}") for file in shared)


def is_artefact(file: str) -> bool:
    """Whether a file is one that adapters refer to, by its place and name."""
    path = PurePosixPath(file)
    known = path.suffix in ARTEFACTS.values() and _HASH.fullmatch(path.stem) is not None
    return path.parent == PurePosixPath(SHARED) and known
