"""Which basis an adapter is compressed with, and finding it again to reconstruct."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from adaptzip.bases.artefact import read_basis, round_basis
from adaptzip.bases.banks import holds_bank
from adaptzip.bases.frames import check_sizes, cut_frames, frames_of_start
from adaptzip.bases.updates import build_basis
from adaptzip.bases.weights import base_fingerprint, basis_from_base, empty_basis
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis, BasisReference, ModuleBasis
from adaptzip.core.compressed import Site
from adaptzip.core.projection import leading, module_basis
from adaptzip.errors import FormatError, RefusedError
from adaptzip.files.names import ARTEFACTS, SHARED
from adaptzip.models.folder import BaseModel

EMBEDDED_DTYPE = torch.float16
"""What a basis is stored as within a `.adz` file."""

_SHOWN = 8
_CALLED: Mapping[str, str] = {"file": "a shared basis", "reference": "another adapter's A"}


def basis_for_compress(
    default: Literal["", "base", "update"],
    adapter: Adapter,
    *,
    base: Path | None,
    basis: Path | Basis | None,
    size: int | None,
    embed: bool = False,
) -> Basis:
    """The basis to compress an adapter with, exactly as a reader will have it.

    A basis that is given is taken. Else "base" computes that of the base weights, and "update" that of this very
    adapter, which has to be embedded.

    Args:
        default: what the method stands on if no basis is given.
        base: folder of the base model.
        basis: a basis, or the path of one.
        size: most directions of a module; None takes the adapter's largest rank where the basis is computed.
        embed: store the basis in the file, whatever it is.

    Returns:
        A basis with every module of the adapter, without directions where a zero update has none in the basis.

    Raises:
        RefusedError: if the base model is needed and not given, or the basis lacks a module.
        FormatError, BaseModelError: if either is unreadable.
    """
    if holds_bank(basis):
        raise RefusedError(
            f"{'the basis' if isinstance(basis, Basis) else basis}: is a bank of vectors, expected directions",
            hint="give a file that `adaptzip basis build` wrote",
        )
    if basis is not None:
        found = basis if isinstance(basis, Basis) else _shared(basis)
    elif default == "base":
        found = _of_base(adapter, base, size, embed)
    else:
        found = build_basis([adapter], size)
    return _settled(found, adapter, size, embed=embed)


def basis_for_reconstruct(
    reference: BasisReference,
    sites: Mapping[str, Site],
    *,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    embedded: Basis | None = None,
    only: Collection[str] | None = None,
) -> Basis:
    """The basis that a compressed adapter's cores stand on.

    Args:
        reference: what the file says of it.
        sites: all modules of the file.
        base: folder of the base model, for a basis of its weights.
        basis: the artefact, its path, or that of a store that has it, for a basis in a file.
        embedded: what the file itself holds.
        only: modules that are wanted, where computing the others can be saved.

    Raises:
        RefusedError: if what is needed was not given, or is another than the file was made with.
        FormatError: if the file or the artefact is damaged, or the basis does not fit the file's modules.
        BaseModelError: if the base model is unreadable or lacks a module.
    """
    if reference.source == "embedded":
        if embedded is None:
            raise FormatError("the file names an embedded basis, and holds none")
        found = embedded
    elif reference.source in ("start", "reference", "bank"):
        raise FormatError(f"the file's cores cannot stand on what is a {reference.source}")
    else:
        found = _found(reference, sites, base, basis, only)
    return Basis(_fitting(found, sites), reference)


def frames_for_reconstruct(
    reference: BasisReference,
    sites: Mapping[str, Site],
    sizes: Sequence[int],
    block_bytes: int,
    *,
    sides: int = 1,
    base: str | Path | None = None,
    basis: str | Path | Basis | None = None,
    only: Collection[str] | None = None,
) -> Basis:
    """The frames that a compressed adapter's in-vectors are coded in, and with 2 sides its out-vectors.

    Args:
        reference, sites, base, only: as for `basis_for_reconstruct`.
        sizes: directions of each module's frame, in the order of `sites`; 0 without.
        block_bytes: bytes of all blocks.
        basis: the artefact or its path, or the frames of the adapter that the file refers to (`reference_frames`).

    Raises:
        RefusedError, FormatError, BaseModelError: as `basis_for_reconstruct`.
    """
    check_sizes(sizes, sites, block_bytes, reference.source, sides)
    framed = {name: size for name, size in zip(sites, sizes, strict=True) if size}
    if reference.source in ("embedded", "bank") or (reference.source == "start") != (reference.start is not None):
        raise FormatError(f"the file's frames cannot come from what is {reference.source!r}")
    if reference.start is not None:
        return Basis(frames_of_start(reference.start, sites, framed, only=only), reference)
    wanted = framed if only is None else {name: size for name, size in framed.items() if name in only}
    found = cut_frames(_found(reference, sites, base, basis, wanted), wanted, outputs=sides == 2)
    for name, module in found.items():
        if len(module.V) != sites[name].width:
            raise FormatError(f"module {name} has {sites[name].width} inputs, but its frame is for {len(module.V)}")
        if sides == 2 and len(module.U) != sites[name].out:
            raise FormatError(f"module {name} has {sites[name].out} outputs, but its frame is for {len(module.U)}")
    return Basis(found, reference)


def _found(
    reference: BasisReference,
    sites: Mapping[str, Site],
    base: str | Path | None,
    basis: str | Path | Basis | None,
    only: Collection[str] | None,
) -> Basis:
    """What lies outside the file."""
    if reference.source == "base":
        return _again_from_base(reference, sites, base, only)
    return artefact_for(reference, basis)


def _of_base(adapter: Adapter, base: Path | None, size: int | None, embed: bool) -> Basis:
    if base is None:
        raise RefusedError(
            "the method stands on the base weights, and no base model was given",
            hint="add `base=DIR`, or `basis=FILE` that `adaptzip basis build` wrote",
        )
    most = size or max((module.rank for module in adapter.modules.values()), default=1)
    sites = {name: Site(*m.shape, m.layout, m.kernel) for name, m in sorted(adapter.modules.items())}
    return basis_from_base(BaseModel.open(base), sites, max(1, most), reproducible=not embed)


def _shared(path: Path) -> Basis:
    if path.is_dir():
        raise RefusedError(
            f"{path}: is a folder, expected a basis that adapters share",
            hint="give a file that `adaptzip basis build` wrote",
        )
    return read_basis(path)


def _settled(basis: Basis, adapter: Adapter, size: int | None, *, embed: bool) -> Basis:
    """The adapter's modules alone; where the basis is embedded, cut and rounded as they will be stored."""
    modules = {}
    for name, module in sorted(adapter.modules.items()):
        if name in basis.modules or (bool(module.A.any()) and bool(module.B.any())):
            modules[name] = module_basis(basis, name, module.shape)
        else:
            modules[name] = empty_basis(Site(*module.shape))
    found = Basis(modules, basis.reference)
    if not embed and basis.reference.source != "embedded":
        return found
    # A mean is for many adapters; with the basis in the file of one it would be no less to store than what it saves.
    modules = {name: replace(leading(module, size), mean=None) for name, module in modules.items()}
    largest = max(1, *(module.size for module in modules.values()))
    return round_basis(Basis(modules, BasisReference("embedded", largest)), EMBEDDED_DTYPE)


def _again_from_base(
    reference: BasisReference, sites: Mapping[str, Site], base: str | Path | None, only: Collection[str] | None
) -> Basis:
    if base is None:
        raise RefusedError(
            "the adapter is coded in directions of its base weights, and no base model was given",
            hint="add `base=DIR`, the folder of the base model that it was compressed with",
        )
    model = BaseModel.open(base)
    found = base_fingerprint(model, sites)
    if found != reference.hash:
        raise RefusedError(
            f"{base}: is another base model or revision: its weights have hash {found[:_SHOWN]}..., the adapter was "
            f"compressed with {reference.hash[:_SHOWN]}...",
            hint="give the very base model that the adapter was compressed with; `embed_basis=True` makes do without",
        )
    return basis_from_base(model, sites, reference.size, only=only)


def artefact_for(reference: BasisReference, basis: str | Path | Basis | None) -> Basis:
    """The artefact that a file refers to.

    Args:
        basis: it, its path, or that of a store that has it.

    Raises:
        RefusedError: if it was not given, or is another.
        FormatError: if it is unreadable or damaged.
    """
    if basis is None:
        what = _CALLED[reference.source] + (f" ({reference.description})" if reference.description else "")
        raise RefusedError(
            f"the adapter is coded in {what} of hash {reference.hash[:_SHOWN]}..., which was not given",
            hint="add `basis=FILE`, the very one that it was compressed with",
        )
    if not isinstance(basis, Basis) and Path(basis).is_dir():
        basis = artefact_in(Path(basis), reference.hash)
    found = basis if isinstance(basis, Basis) else read_basis(basis)
    if found.reference.hash != reference.hash:
        where = _CALLED[reference.source] if isinstance(basis, Basis) else str(basis)
        raise RefusedError(
            f"{where}: has hash {found.reference.hash[:_SHOWN]}..., the adapter was compressed with "
            f"{reference.hash[:_SHOWN]}...",
            hint="give the very one that the adapter was compressed with",
        )
    return found


def artefact_in(folder: Path, content: str) -> Path:
    """The artefact of a hash in a store, or in its folder of what adapters share.

    Raises:
        RefusedError: if neither has it.
    """
    places = (folder / SHARED, folder)
    # A name is made of nothing but what a hash is made of, whatever the file says.
    names = (
        [f"{content}{suffix}" for suffix in ARTEFACTS.values()] if re.fullmatch(r"[\w-]+", content, re.ASCII) else []
    )
    for path in (place / name for place in places for name in names):
        if path.is_file():
            return path
    raise RefusedError(
        f"{folder}: has no artefact of hash {content}, which the adapter was compressed with",
        hint="give its file, or a store that holds it as `shared/HASH.basis`",
    )


def _fitting(basis: Basis, sites: Mapping[str, Site]) -> dict[str, ModuleBasis]:
    """The modules of a file, without directions where the basis has none."""
    modules = {}
    for name, site in sites.items():
        if name not in basis.modules:
            modules[name] = empty_basis(site)
            continue
        module = basis.modules[name]
        if (len(module.U), len(module.V)) != (site.out, site.width):
            raise FormatError(
                f"module {name} is {site.out} x {site.width}, but its basis is for {len(module.U)} x {len(module.V)}"
            )
        modules[name] = module
    return modules
