"""The basis that LoRA-XS stands on: singular directions of the base weights, computed again wherever it is needed.

They are taken from the exact stored numbers in float64 without any randomness, so that only the last bits depend on
the machine. A digest of these numbers tells whether it is the same base model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from adaptzip.bases.directions import AT_ONCE, SMALLEST, dense_directions, pair
from adaptzip.bases.kept import Directions, Source, kept_or_made
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.basis import Basis, BasisReference, ModuleBasis
from adaptzip.core.compressed import Site
from adaptzip.core.layouts import TURNED, Layout
from adaptzip.core.workers import on_one_core, parallel_map
from adaptzip.errors import BaseModelError, RefusedError, UsageError
from adaptzip.files.digest import digest
from adaptzip.models import names
from adaptzip.models.folder import BaseModel
from adaptzip.models.layouts import part_of, stored_layout
from adaptzip.models.renaming import find_renaming

CLOSEST = 1e-7
"""Two singular values nearer to each other than this share of the largest leave their vectors to rounding."""

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class _Part:
    """A stored tensor that holds a module's weight, or some rows of it."""

    site: names.Location
    layout: Layout


@on_one_core()
def basis_from_base(
    base: BaseModel,
    sites: Mapping[str, Site],
    size: int,
    *,
    only: Collection[str] | None = None,
    reproducible: bool = True,
) -> Basis:
    """The first singular directions of every module's base weight, as its update lies, (out, in).

    Args:
        base: the base model.
        sites: the modules of an adapter, all of them: the hash is over all their weights.
        size: most directions k of a module.
        only: compute the directions of these modules alone.
        reproducible: refuse weights whose directions another machine would not find again.

    Raises:
        UsageError: if `size` is not positive.
        BaseModelError: if the base lacks a module, has another shape, or holds NaN or infinity.
        RefusedError: if a weight is quantised, or its directions are not `reproducible`.
    """
    if size < 1:
        raise UsageError(f"a basis of size {size} was asked for, expected at least 1")
    places = _places(base, sites)
    told = _told(base, places)

    def make(name: str) -> Directions:
        turned = places[name][0].layout in TURNED
        weight = torch.cat([_oriented(base, part) for part in places[name]], dim=1 if turned else 0)
        if not bool(weight.isfinite().all()):
            raise BaseModelError(f"{base.path}: the weight of {name} holds NaN or infinity", hint="use another save")
        U, S, V = dense_directions(weight, size + 1)
        return Directions(pair(U[:, :size], V[:, :size]), S)

    wanted = list(sites) if only is None else sorted(only)
    shapes = {name: (sites[name].out, sites[name].width) for name in wanted}
    sources = {name: Source(shapes[name], json.dumps(told[name]).encode(), size) for name in wanted}
    modules = {}
    for name, found in zip(wanted, kept_or_made(sources, make), strict=True):
        if reproducible:
            _check_gaps(name, found.S)
        modules[name] = found.module
    return Basis(modules, BasisReference("base", size, _fingerprint(told)))


def base_fingerprint(base: BaseModel, sites: Mapping[str, Site]) -> str:
    """Digest over the weights that belong to `sites`: module names, dtypes, shapes, orientation and stored bytes.

    The base's own names for its tensors, and how they are spread over files, do not enter.

    Raises:
        BaseModelError, RefusedError: as `basis_from_base`.
    """
    return _fingerprint(_told(base, _places(base, sites)))


def _told(base: BaseModel, places: Mapping[str, tuple[_Part, ...]]) -> dict[str, list[list[object]]]:
    """All that decides each module's weight, part by part: dtype, shape, orientation, place, digest of stored bytes."""
    tensors = sorted({part.site.tensor for parts in places.values() for part in parts})
    digests = dict(zip(tensors, parallel_map(base.digest, tensors, most=AT_ONCE), strict=True))

    def tell(part: _Part) -> list[object]:
        stored = base.stored(part.site.tensor)
        dtype = str(stored.dtype).removeprefix("torch.")
        fused = [] if part.site.part is None else [part.site.part]
        where = [part.layout, part.site.rows, part.site.expert, *fused]
        return [dtype, stored.shape, *where, digests[part.site.tensor]]

    return {name: [tell(part) for part in parts] for name, parts in places.items()}


def _fingerprint(told: Mapping[str, list[list[object]]]) -> str:
    return digest(json.dumps([name, *part]).encode() + b"\n" for name, parts in sorted(told.items()) for part in parts)


def _places(base: BaseModel, sites: Mapping[str, Site]) -> dict[str, tuple[_Part, ...]]:
    """Where each module's weight is stored."""
    renaming = find_renaming(base, list(sites))
    places = {}
    for name, site in sites.items():
        empty = LoraFactors(
            torch.empty(0, site.width), torch.empty(site.out, 0), 1.0, cast("Layout", site.layout), site.kernel
        )
        found = names.locate(base, name, renaming)
        places[name] = tuple(_Part(where, stored_layout(base, name, empty, where)) for where in found)
        for where in found:
            _check_dtype(base, where.tensor)
    return places


def _oriented(base: BaseModel, part: _Part) -> Tensor:
    """A stored weight as (out, in), in its own dtype; some rows of it where others are stored apart."""
    weight = base.read(part.site.tensor)
    if part.site.expert is not None:
        weight = weight[part.site.expert]
    weight = part_of(weight, part.site.part, part.layout)
    if part.layout in TURNED:
        weight = weight.T
    return weight.flatten(1)


def _check_dtype(base: BaseModel, tensor: str) -> None:
    dtype = base.stored(tensor).dtype
    if dtype not in _FLOATS:
        raise RefusedError(
            f"{base.path}: {tensor} is stored as {str(dtype).removeprefix('torch.')}, expected float32, bfloat16 or "
            "float16",
            hint="give the base model in its original float weights",
        )


def _check_gaps(name: str, S: Tensor) -> None:
    values = [value for value in S.tolist() if value > SMALLEST * float(S[0])]
    for index, (larger, smaller) in enumerate(pairwise(values)):
        if larger - smaller < CLOSEST * values[0]:
            raise RefusedError(
                f"module {name}: singular values {index + 1} and {index + 2} of its base weight are equal to 7 digits, "
                "so that another machine would find other directions",
                hint="store the directions in the file with `embed_basis=True`, or choose a smaller rank",
            )


def empty_basis(site: Site) -> ModuleBasis:
    """No directions at all, for a module whose update is zero."""
    return ModuleBasis(torch.zeros(site.out, 0), torch.zeros(site.width, 0))
