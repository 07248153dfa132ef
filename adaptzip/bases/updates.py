"""The joint basis of several adapters' updates, whichever factors they are written in."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor

from adaptzip.bases.directions import pair, stacked_directions
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.basis import Basis, BasisReference, ModuleBasis
from adaptzip.core.linalg import factored_svd
from adaptzip.core.workers import on_one_core, parallel_map
from adaptzip.errors import RefusedError, UsageError

Components = tuple[Tensor, Tensor, Tensor]
"""U (out, k), S (k,) and V (in, k) of one update, float64."""


@on_one_core()
def build_basis(adapters: Sequence[Adapter], size: int | None = None, *, normalised: bool = True) -> Basis:
    """The directions that hold most of the updates of several adapters.

    For each module they are the principal left directions of [dW_1, dW_2, ...] and the principal right ones of the
    updates stacked the other way (the higher-order SVD; De Lathauwer, De Moor and Vandewalle 2000), from the singular
    components of each update, so that equal updates in other factors give the same basis.

    Args:
        adapters: at least one; a module's basis comes from those that change it.
        size: most directions k of a module on either side; None keeps all that there are.
        normalised: scale every adapter to |dW| = 1 over all its modules, so that none dominates by its strength.

    Returns:
        A basis whose reference says "embedded", until it is written to a file.

    Raises:
        UsageError: if `size` is not positive, there is no adapter, or they have other shapes for one module.
        RefusedError: if every update is zero.
    """
    if not adapters or (size is not None and size < 1):
        raise UsageError(f"a basis of size {size} from {len(adapters)} adapters was asked for, expected at least one")
    parts: dict[str, list[Components]] = {}
    for adapter in adapters:
        for name, one in _components(adapter, normalised).items():
            parts.setdefault(name, []).append(one)
    if not parts:
        raise RefusedError("every update is zero, so there are no directions to keep", hint="train the adapters first")
    for name, found in sorted(parts.items()):
        _check_shapes(name, found)

    def directions(name: str) -> ModuleBasis:
        found = parts[name]
        return pair(_side([(U, S) for U, S, _ in found], size), _side([(V, S) for _, S, V in found], size))

    modules = dict(zip(sorted(parts), parallel_map(directions, sorted(parts)), strict=True))
    what = f"updates of {len(adapters)} adapter{'s' if len(adapters) > 1 else ''}"
    return Basis(modules, BasisReference("embedded", max(m.size for m in modules.values()), "", what))


def _components(adapter: Adapter, normalised: bool) -> dict[str, Components]:
    """Singular components of the updates that are not zero."""
    names = [name for name, module in adapter.modules.items() if module.rank]
    found = dict(zip(names, parallel_map(lambda name: _svd(adapter.modules[name]), names), strict=True))
    total = sqrt(sum(float(S.square().sum()) for _, S, _ in found.values()))
    weight = 1 / total if normalised and total else 1.0
    return {name: (U, S * weight, V) for name, (U, S, V) in found.items() if float(S.sum()) > 0}


def _svd(module: LoraFactors) -> Components:
    U, S, Vt = factored_svd(module.A[None], module.B[None], module.scaling, dtype=torch.float64)
    return U[0], S[0], Vt[0].T


def _side(parts: Sequence[tuple[Tensor, Tensor]], size: int | None) -> Tensor:
    """The principal directions of one side, given every update's singular vectors and values."""
    columns = torch.cat([vectors * S for vectors, S in parts], dim=1)
    return stacked_directions(columns, columns.shape[1] if size is None else size)[0]


def _check_shapes(name: str, found: Sequence[Components]) -> None:
    shapes = {(U.shape[0], V.shape[0]) for U, _, V in found}
    if len(shapes) > 1:
        listed = " and ".join(str(list(shape)) for shape in sorted(shapes))
        raise UsageError(
            f"module {name} is {listed} in the adapters given",
            hint="build a basis from adapters of one base model",
        )
