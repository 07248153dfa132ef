"""What is put into a store for one adapter: a `.adz` as it is, or an adapter compressed, alone or with a basis."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path

from adaptzip.adz.container.frame import is_adz
from adaptzip.adz.container.reader import open_adz
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.named import artefact_beside, artefact_for, artefact_in
from adaptzip.checkpoints._base_name import warn_of_local_name
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Compressed
from adaptzip.errors import AdaptzipError, RefusedError, UsageError, naming, warn
from adaptzip.files.regular import read_regular
from adaptzip.files.trees import Tree, content_of
from adaptzip.fitting.compression import make_from
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.rate_control import DEFAULT_ERROR
from adaptzip.fitting.requests import Original, Request
from adaptzip.fleet.artefacts import artefacts_in, called, opened, suiting
from adaptzip.fleet.store.index import read_rows
from adaptzip.fleet.store.layout import artefact_file, artefact_hash
from adaptzip.fleet.variants import Sharing, read_back, shared_variants, smallest
from adaptzip.methods import REFERENCE
from adaptzip.models.hub import adapter_path


@dataclass(frozen=True, eq=False)
class Put:
    """What is put into a store.

    Attributes:
        compressed: the adapter, and `content`, its bytes.
        artefact: the file in the store that it refers to; None where it needs none.
        shared: the content of that, which is written unless it is there.
        group: what it is put together with others under, where nobody says.
    """

    compressed: Compressed
    content: bytes
    artefact: str | None = None
    shared: bytes | None = None
    group: str | None = None


def prepared(tree: Tree, source: str | Path | Adapter | Compressed, request: Request, share: Sharing) -> Put:
    """What is put into a store for an adapter; nothing is written.

    Args:
        request: how to compress it, or nothing but `basis` for one that is a `.adz`.

    Raises:
        UsageError, RefusedError, CheckpointError, FormatError, CheckFailedError: as `adaptzip.add_to_store`.
    """
    if isinstance(source, Compressed):
        return _as_it_is(tree, source, None, request, share)
    if isinstance(source, Adapter):
        return _made(tree, source, request, share)
    path = adapter_path(source)
    if not is_adz(path):
        return _made(tree, path, request, share)
    content = read_regular(path)
    with naming(path, AdaptzipError):
        compressed = replace(open_adz(content), path=path)
        return _as_it_is(tree, compressed, content, request, share)


def _as_it_is(tree: Tree, compressed: Compressed, content: bytes | None, request: Request, share: Sharing) -> Put:
    """Something that is compressed already, all of which is checked."""
    _check_nothing_asked(request, share)
    again = compressed.to_bytes()
    artefact, shared = _artefact(tree, compressed, request.basis)
    return Put(compressed, content or again, artefact, shared)


def _check_nothing_asked(request: Request, share: Sharing) -> None:
    """Raises: UsageError: if anything is to be chosen of what is stored as it is."""
    asked = replace(request, basis=None)
    name = next((f.name for f in fields(Request) if getattr(asked, f.name) != getattr(Request(), f.name)), None)
    if share != "auto":
        name = "share"
    if name is not None:
        raise UsageError(f"`{name}=` was given, but a .adz is stored as it is", hint="leave it out, or name its source")


def _made(tree: Tree, source: str | Path | Adapter, request: Request, share: Sharing) -> Put:
    """An adapter compressed as it is asked for, or with what the store's adapters share."""
    loaded = load_source(source, request)
    warn_of_local_name(loaded.adapter.meta.base_model)
    said = "the adapter" if isinstance(source, Adapter) else str(source)
    alone = make_from(loaded, request).compressed
    if _shares(request, share):
        found = _with_shared(tree, loaded, request, alone, share)
        if found is not None:
            made, basis, artefact = found
            again, content, _ = read_back(loaded.adapter, made, basis, said, request.base)
            return Put(again, content, artefact, content_of(tree, artefact, "a shared artefact"), called(artefact))
    own, shared = _artefact(tree, alone, request.basis)
    return Put(alone, alone.to_bytes(), own, shared)


def _shares(request: Request, share: Sharing) -> bool:
    """Whether the store's bases and banks are tried.

    Raises:
        UsageError: if they are to be used, and something else is asked for.
    """
    chosen = {"to": request.to != REFERENCE, "lossless": request.lossless, "basis": request.basis is not None}
    name = next((name for name, given in chosen.items() if given), None)
    if share == "always" and name is not None:
        raise UsageError(f"`share='always'` was given, and `{name}=`", hint="leave out one of them")
    return share != "never" and name is None


def _with_shared(
    tree: Tree, source: Original, request: Request, alone: Compressed, share: Sharing
) -> tuple[Compressed, Basis, str] | None:
    """An adapter with a basis or bank of the store; None where none suits, or alone it is smaller or nearer.

    What other adapters refer to is there anyway and costs nothing; what none does is for `share="always"`.
    """
    used = {row.shared for row in read_rows(tree).values()}
    files = [one.file for one in artefacts_in(tree) if share == "always" or artefact_hash(one.file) in used]
    files = [file for file in files if _sound(tree, file)]
    limit = request.max_error if request.budget is not None or request.max_error is not None else DEFAULT_ERROR
    asked = replace(request, max_error=limit)
    found: dict[int, tuple[Compressed, Basis, str]] = {}
    for file in suiting([source.adapter], tree.location, files)[0]:
        basis = opened(tree.location, file)
        found |= {id(made): (made, basis, file) for made in shared_variants(source, asked, basis)}
    if not found:
        return None
    best = smallest([made for made, _, _ in found.values()], request)
    won = share == "always" or smallest([alone, best], request) is best
    return found[id(best)] if won else None


def _sound(tree: Tree, file: str) -> bool:
    """Whether a basis or bank is what its name says; warns of one that is not, which is left out of account."""
    try:
        opened(tree.location, file)
    except (AdaptzipError, OSError) as error:
        warn(f"{error}; it is left out of account")
        return False
    return True


def _artefact(tree: Tree, compressed: Compressed, basis: str | Path | Basis | None) -> tuple[str | None, bytes | None]:
    """The file of what an adapter refers to, and its content where it was given, or the store has it not."""
    reference = compressed.basis
    file = None if reference is None else artefact_file(reference)
    if reference is None or file is None:
        return None, None
    if basis is None and tree.size(file) is not None:
        return file, None
    if basis is None:
        basis = None if compressed.path is None else artefact_beside(compressed.path, reference.hash)
        if basis is None:
            raise RefusedError(
                f"the adapter refers to {file}, which {tree.location} lacks", hint="add `basis=FILE`, the very one"
            )
    found = artefact_for(reference, basis)
    if not isinstance(basis, Basis):
        path = Path(basis)
        return file, (artefact_in(path, reference.hash) if path.is_dir() else path).read_bytes()
    with tempfile.TemporaryDirectory(prefix="adaptzip-") as folder:
        path = Path(folder) / "shared"
        write_basis(found, path)
        artefact_for(reference, path)
        return file, path.read_bytes()
