"""Where things lie in a store: adapters by name, what they share by hash, and the rows of the index."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from adaptzip.errors import UsageError
from adaptzip.files.trees import Tree, checked_name

ADAPTER = ".adz"
SHARED, INDEX, WORK = "shared", "index", "work"
"""Folders at a store's root that hold no adapters."""
ARTEFACTS = (".basis", ".bank")
"""How the names of files end that several adapters refer to."""
ARTEFACT_SOURCES = ("file", "bank")
"""What a file calls a basis that is such an artefact."""
_HASH = re.compile(r"[\w-]{22}", re.ASCII)


def adapter_file(name: str) -> str:
    """The file of the adapter `name`, which may have folders, as `team/support`.

    Raises:
        UsageError: if it is no name of an adapter.
    """
    parts = checked_name(name).split("/")
    if parts[0] in (SHARED, INDEX, WORK) and len(parts) > 1 or any(part.startswith(".") for part in parts):
        raise UsageError(f"{name!r} is no name of an adapter in a store", hint="choose one with other folders")
    return name + ADAPTER


def adapter_name(file: str) -> str | None:
    """The name of the adapter in a file; None for a file that is none."""
    inner = file.split("/")
    if not file.endswith(ADAPTER) or (len(inner) > 1 and inner[0] in (SHARED, INDEX, WORK)):
        return None
    return file.removesuffix(ADAPTER) or None


def artefact_files(content: str) -> tuple[str, ...]:
    """The names that the artefact of a hash may have.

    Raises:
        UsageError: if it is no hash.
    """
    if _HASH.fullmatch(content) is None:
        raise UsageError(f"{content!r} is no hash of a basis or bank", hint="expected 22 characters of base64url")
    return tuple(f"{SHARED}/{content}{suffix}" for suffix in ARTEFACTS)


def artefact_of(tree: Tree, content: str) -> str | None:
    """The artefact of a hash; None where the store has none."""
    return next((file for file in artefact_files(content) if tree.size(file) is not None), None)


def artefact_hash(file: str) -> str:
    """The hash in the name of an artefact."""
    return PurePosixPath(file).stem
