"""The frames that an adapter can be coded in: where its A began, as far as that is known or can be found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from adaptzip.bases.artefact import is_basis, read_basis
from adaptzip.bases.banks import holds_bank
from adaptzip.bases.frames import cut_frames, possible, possible_frames_of_start, reference_frames
from adaptzip.bases.starts.files import TENSORS, read_start, start_note
from adaptzip.bases.starts.finding import find_start, measured, start_at
from adaptzip.bases.starts.found import POPULAR, FoundStart, KeptStart
from adaptzip.bases.starts.streams import CHUNK
from adaptzip.bases.weights import basis_from_base
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis, BasisReference
from adaptzip.core.frames import MOST_ROWS
from adaptzip.errors import AdaptzipError, FormatError, RefusedError, UsageError, warn
from adaptzip.fitting.asked_starts import AskedStart, asked_start
from adaptzip.fitting.requests import AUTO, Request
from adaptzip.fitting.seed_search import SeedSearch, search
from adaptzip.fitting.surveys import sites_of
from adaptzip.methods import load
from adaptzip.models.folder import BaseModel
from adaptzip.restoring.reconstruction import frames_at

_OF_BASE = 0.5
"""An A with this share of its energy in directions of the base began with them: of PiSSA, OLoRA and the like."""
_FURTHER = 1 << 25
"""Numbers of the stream that are looked through where the seed is given, or no effort is spared."""


def known_frames(source: str | Path | Adapter, adapter: Adapter, request: Request) -> Basis | None:
    """Directions of modules' inputs that a reader makes again, and that an adapter's in-vectors may lie near to.

    Args:
        source: where it was read, beside which a start may be recorded.
        adapter: what was read.

    Returns:
        Frames of those modules that have one; None without any.

    Raises:
        RefusedError: if what was asked for is no start of this adapter.
        CheckpointError, FormatError, BaseModelError: if it is unreadable.
    """
    asked = asked_start(request.start)
    found: Basis | None = None
    if asked.kind == "none":
        return None
    # Of a bank no module's inputs have directions.
    if request.basis is not None and not asked.given and not holds_bank(request.basis):
        found = request.basis if isinstance(request.basis, Basis) else _basis_or_frames(Path(request.basis))
        if request.embed_basis or found is None or found.reference.source == "embedded":
            return None  # No file holds a frame, and of this basis there may be no other.
    else:
        found = _asked(asked, source, adapter, request)
    frames = None if found is None else _fitting(found, adapter)
    if frames is None and asked.given:
        raise RefusedError(
            f"no module of the adapter can have begun with what `start='{request.start}'` says",
            hint="leave `start=` out to look for its start",
        )
    return frames


def _asked(asked: AskedStart, source: str | Path | Adapter, adapter: Adapter, request: Request) -> Basis | None:
    if asked.kind == "base":
        return _of_base(adapter, request)
    if asked.path is not None:
        return _at(asked.path, adapter)
    if asked.kind == "seed":
        return _of_start(_of_seed(asked.seed, asked.offset, adapter), adapter)
    noted = _noted_beside(source, adapter)
    if noted is not None:
        return noted
    if request.effort == "fast" and not request.search_starts:
        return None
    found = find_start(adapter.modules, POPULAR, _FURTHER if _far(request) else CHUNK)
    if found is None and request.base is not None and _began_with_base(adapter, request.base):
        return _of_base(adapter, request)
    if found is None and request.search_starts:
        how = request.search_starts if isinstance(request.search_starts, SeedSearch) else SeedSearch()
        found = search(adapter, how, request.device)
    return _of_start(found, adapter)


def _far(request: Request) -> bool:
    """Whether no effort is spared, for a method that has use for a start."""
    takes = request.lossless or request.to == AUTO or load(request.to).takes_frame
    return request.effort == "best" and takes


def _noted_beside(source: str | Path | Adapter, adapter: Adapter) -> Basis | None:
    """What a note that can be read says in the source's folder; a start kept as tensors has to be asked for."""
    note = None if isinstance(source, Adapter) else start_note(source if Path(source).is_dir() else Path(source).parent)
    if note is None:
        return None
    try:
        start = read_start(note)
    except (FormatError, RefusedError) as error:
        warn(f"the note of a start is left alone: {error}")
        return None
    if isinstance(start, FoundStart):
        return _made_again(start, adapter)
    warn(
        f"{note.with_name(TENSORS)}: the adapter may be coded against these first numbers with "
        f"`start='{note.parent}'`, and then needs them to be decoded; they are left alone"
    )
    return None


def _of_seed(seed: int, offset: int | None, adapter: Adapter) -> FoundStart | None:
    if offset is None:
        return find_start(adapter.modules, (seed,), _FURTHER)
    return start_at(adapter.modules, seed, offset)


def _began_with_base(adapter: Adapter, base: str | Path) -> bool:
    """Whether the smallest module's A lies in the first directions of its base weight.

    No configuration tells: adapters of PiSSA and the like are plain ones of twice the rank before others can read them.
    """
    fitting = {name: module for name, module in adapter.modules.items() if possible(module.rank, module.shape[1])}
    if not fitting:
        return False
    name = min(fitting, key=lambda name: fitting[name].shape[0] * fitting[name].shape[1])
    try:
        found = basis_from_base(BaseModel.open(base), sites_of(adapter), fitting[name].rank, only=(name,))
    except AdaptzipError:
        return False  # A base that lacks a module serves calibration well enough.
    A, V = fitting[name].A.detach().cpu().double(), found.modules[name].V.cpu().double()
    return float((A @ V).square().sum()) > _OF_BASE * float(A.square().sum()) and V.shape[0] > 2 * V.shape[1]


def _of_start(found: FoundStart | None, adapter: Adapter) -> Basis | None:
    """The frames of a start; a module whose numbers make none has none."""
    if found is None:
        return None
    sites = sites_of(adapter)
    names = [n for n in sorted(found.places) if n in sites and possible(found.places[n].rank, sites[n].width)]
    sizes = {name: found.places[name].rank for name in names}
    modules = possible_frames_of_start(found.start(names), sites, sizes)
    most = max((sizes[name] for name in modules), default=0)
    return Basis(modules, BasisReference("start", most, start=found.start(sorted(modules))))


def _of_base(adapter: Adapter, request: Request) -> Basis:
    """The first directions of the base weights, as many as each module has rows in A."""
    if request.base is None:
        raise UsageError("the start is the base model's, and no base model was given", hint="add `base=DIR`")
    sizes = {name: module.rank for name, module in adapter.modules.items() if possible(module.rank, module.shape[1])}
    found = basis_from_base(BaseModel.open(request.base), sites_of(adapter), max(sizes.values(), default=1))
    return Basis(cut_frames(found, sizes), found.reference)


def _at(path: Path, adapter: Adapter) -> Basis | None:
    """What lies at a path: a recorded start, a basis artefact, or another adapter."""
    note = start_note(path)
    if note is None:
        return _basis_or_frames(path)
    start = read_start(note)
    return reference_frames(start.A) if isinstance(start, KeptStart) else _made_again(start, adapter)


def _basis_or_frames(path: Path) -> Basis:
    """A basis artefact, or the frames of another adapter."""
    return read_basis(path) if is_basis(path) else frames_at(path)


def _made_again(start: FoundStart, adapter: Adapter) -> Basis | None:
    """The frames of a recorded start, for modules of the recorded shapes."""
    shapes = {name: tuple(module.A.shape) for name, module in adapter.modules.items()}
    places = {name: place for name, place in start.places.items() if shapes.get(name) == (place.rank, place.width)}
    return _of_start(measured(adapter.modules, start.generator, start.seed, places), adapter)


def _fitting(basis: Basis, adapter: Adapter) -> Basis | None:
    """The frames of the adapter's modules, where there are any; an artefact's on both sides, as large as may be."""
    if basis.reference.source == "file":
        return _shared(basis, adapter)
    shapes = {name: module.shape for name, module in adapter.modules.items()}
    names = [
        name
        for name, module in basis.modules.items()
        if name in shapes and len(module.V) == shapes[name][1] and possible(module.size, shapes[name][1])
    ]
    found = basis.of(names)
    modules = cut_frames(found, {name: module.size for name, module in found.modules.items()})
    return replace(found, modules=modules) if modules else None


def _shared(basis: Basis, adapter: Adapter) -> Basis | None:
    sizes = {}
    for name, module in basis.modules.items():
        shape = adapter.modules[name].shape if name in adapter.modules else None
        size = min(module.size, *module.U.shape[:1], *module.V.shape[:1], MOST_ROWS)
        if shape == (len(module.U), len(module.V)) and possible(size, len(module.V)):
            sizes[name] = size
    found = basis.cut(sizes)
    return replace(found, modules=cut_frames(found, sizes, outputs=True)) if sizes else None
