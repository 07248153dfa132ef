"""Getting an adapter out of a store, with what it shares with others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from adaptzip.adz.container.reader import open_adz
from adaptzip.bases.named import artefact_for
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.compressed import Compressed
from adaptzip.errors import AdaptzipError, CheckpointError, OutputError, RefusedError, naming
from adaptzip.files.atomic import atomic_file, check_output
from adaptzip.files.trees import Tree, content_of
from adaptzip.fleet.store.layout import adapter_file, artefact_file, aside, existing

AGAIN = "put it there, or add the adapter again with `basis=FILE`"
"""What to do where an artefact is missing."""


@dataclass(frozen=True)
class Fetched:
    """An adapter of a store.

    Attributes:
        name: its name there.
        content: the bytes of its `.adz`.
        compressed: what they hold, opened.
        artefact: the file in the store that it refers to, as `shared/HASH.basis`; None where it needs none.
    """

    name: str
    content: bytes
    compressed: Compressed
    artefact: str | None


def fetch(tree: Tree, name: str) -> Fetched:
    """An adapter, whose artefact is there.

    Raises:
        UsageError: if it is no name of an adapter.
        CheckpointError: if there is none of that name, or it cannot be read.
        FormatError: if it is damaged.
        RefusedError: if a newer version made it, or the store lacks the artefact that it refers to.
    """
    file = adapter_file(name)
    content = content_of(tree, file, "a name that `adaptzip store ls` shows")
    with naming(f"{tree.location}/{file}", AdaptzipError):
        compressed = open_adz(content)
        artefact = None if compressed.basis is None else artefact_file(compressed.basis)
        if artefact is not None and tree.size(artefact) is None:
            lost = tree.size(aside(artefact)) is not None
            hint = "`adaptzip store gc` puts it back, which another run that was killed had begun to remove"
            raise RefusedError(f"needs {artefact}, which the store lacks", hint=hint if lost else AGAIN)
    return Fetched(name, content, compressed, artefact)


def basis_of(tree: Tree, fetched: Fetched) -> Basis | None:
    """What an adapter refers to, read and checked against the hash; None where it needs nothing.

    Raises:
        CheckpointError: if it is gone, or cannot be read.
        FormatError: if it is damaged.
        RefusedError: if it is another than its name says.
    """
    if fetched.artefact is None or fetched.compressed.basis is None:
        return None
    with _found(tree, fetched.artefact) as path:
        return artefact_for(fetched.compressed.basis, path)


def save(tree: Tree, fetched: Fetched, output: str | Path, *, force: bool = False) -> tuple[Path, ...]:
    """Write an adapter's `.adz` as a file, and beside it what it refers to, as `HASH.basis`, so that `basis=` can be
    that folder.

    Returns:
        The files written; an artefact that is there already is checked and left.

    Raises:
        OutputError: if `output` exists without `force`, or cannot be written.
        CheckpointError, FormatError, RefusedError: as `basis_of`, before anything is written.
    """
    target = check_output(output, force)
    written = [Path(output)]
    if fetched.artefact is not None and fetched.compressed.basis is not None:
        beside = target.with_name(PurePosixPath(fetched.artefact).name)
        with _found(tree, fetched.artefact) as path:
            artefact_for(fetched.compressed.basis, path)
            if beside.exists() and not beside.is_file():
                raise OutputError(f"{beside}: is no file", hint="choose another folder")
            if not beside.exists():
                with atomic_file(beside) as handle:
                    handle.write(path.read_bytes())
                written.append(beside)
        artefact_for(fetched.compressed.basis, beside)
    with atomic_file(output, force) as handle:
        handle.write(fetched.content)
    return tuple(written)


@public
def get_from_store(store: str | Path, name: str, output: str | Path, *, force: bool = False) -> tuple[Path, ...]:
    """Write an adapter of a store as a `.adz` file, and beside it what it refers to, where readers look for that.

    Args:
        store: a folder, or a bucket as fsspec names it.
        name: what the store calls the adapter.
        output: the file to write.
        force: replace a file that is there.

    Returns:
        The files written; a basis or bank that is there already is checked and left.

    Raises:
        UsageError: if it is no name of an adapter.
        CheckpointError: if the store is not there, has none of that name, or cannot be read.
        FormatError, RefusedError: if it is damaged, or the store lacks what it refers to.
        OutputError: if `output` exists without `force`, or cannot be written.

    Example:
        >>> row = adaptzip.add_to_store("my-adapter", "store", max_error=0.2)
        >>> adaptzip.get_from_store("store", "my-adapter", "support.adz")
        (PosixPath('support.adz'),)
        >>> adapter = adaptzip.read("support.adz")
    """
    tree = existing(store)
    return save(tree, fetch(tree, name), output, force=force)


@contextmanager
def _found(tree: Tree, artefact: str) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            path = stack.enter_context(tree.near(artefact))
        except FileNotFoundError as error:
            raise CheckpointError(f"{tree.location}/{artefact}: no such file", hint=AGAIN) from error
        yield path
