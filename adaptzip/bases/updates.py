"""The joint basis of several adapters' updates, whichever factors they are written in."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import sqrt

import torch

from adaptzip.bases.streaming import Components, ModuleSketch
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.basis import Basis, BasisReference
from adaptzip.core.linalg import factored_svd
from adaptzip.core.workers import on_one_core, parallel_map
from adaptzip.errors import RefusedError, UsageError


@on_one_core()
def build_basis(adapters: Iterable[Adapter], size: int | None = None, *, normalised: bool = True) -> Basis:
    """The directions that hold most of the updates of several adapters.

    For each module they are the principal left directions of [dW_1, dW_2, ...] and the principal right ones of the
    updates stacked the other way (the higher-order SVD; De Lathauwer, De Moor and Vandewalle 2000), from the singular
    components of each update, so that equal updates in other factors give the same basis.

    Args:
        adapters: at least one; a module's basis comes from those that change it. They may be made one after another:
            with a size, memory does not grow with their number, and what is lost by that is 10^-6 of the energy.
        size: most directions k of a module on either side; None keeps all that there are.
        normalised: scale every adapter to |dW| = 1 over all its modules, so that none dominates by its strength.

    Returns:
        A basis whose reference says "embedded", until it is written to a file.

    Raises:
        UsageError: if `size` is not positive, there is no adapter, or they have other shapes for one module.
        RefusedError: if every update is zero.
    """
    if size is not None and size < 1:
        raise UsageError(f"a basis of size {size} was asked for, expected at least 1")
    sketches: dict[str, ModuleSketch] = {}
    count = 0
    for adapter in adapters:
        count += 1
        found = components(adapter.modules)
        scale = weight_of(energies_of(found)) if normalised else 1.0
        for name in found:
            _check_shape(name, adapter.modules[name].shape, sketches.setdefault(name, ModuleSketch(size)))
        add_updates(sketches, found, scale)
    if not sketches:
        why = "no adapter was given" if not count else "every update is zero"
        raise (RefusedError if count else UsageError)(
            f"{why}, so there are no directions to keep", hint="give adapters that were trained"
        )
    modules = dict(
        zip(sorted(sketches), parallel_map(lambda n: sketches[n].directions(), sorted(sketches)), strict=True)
    )
    what = f"updates of {count} adapter{'s' if count > 1 else ''}"
    return Basis(modules, BasisReference("embedded", max(m.size for m in modules.values()), "", what))


def components(modules: Mapping[str, LoraFactors], only: Collection[str] | None = None) -> dict[str, Components]:
    """Singular components of the updates that are not zero, by module.

    Args:
        only: of these modules alone.
    """
    names = [name for name, module in modules.items() if module.rank and (only is None or name in only)]
    found = zip(names, parallel_map(lambda name: _svd(modules[name]), names), strict=True)
    return {name: update for name, update in found if float(update[1].sum()) > 0}


def energies_of(updates: Mapping[str, Components]) -> dict[str, float]:
    """|dW|^2 of each module."""
    return {name: float(S.square().sum()) for name, (_, S, _) in updates.items()}


def weight_of(energies: Mapping[str, float]) -> float:
    """What an adapter is multiplied by to have |dW| = 1 over all its modules."""
    total = sqrt(sum(energies.values()))
    return 1 / total if total else 1.0


def add_updates(sketches: Mapping[str, ModuleSketch], updates: Mapping[str, Components], weight: float) -> None:
    """Add one adapter's updates, multiplied by `weight`, to the sketches of its modules."""

    def add(name: str) -> None:
        U, S, V = updates[name]
        sketches[name].add((U, S * weight, V))

    for _ in parallel_map(add, updates):
        pass


def _svd(module: LoraFactors) -> Components:
    U, S, Vt = factored_svd(module.A[None], module.B[None], module.scaling, dtype=torch.float64)
    return U[0], S[0], Vt[0].T


def _check_shape(name: str, shape: tuple[int, int], sketch: ModuleSketch) -> None:
    if sketch.shape not in (None, shape):
        listed = " and ".join(str(list(one)) for one in sorted({sketch.shape, shape}))
        raise UsageError(
            f"module {name} is {listed} in the adapters given",
            hint="build a basis from adapters of one base model",
        )
