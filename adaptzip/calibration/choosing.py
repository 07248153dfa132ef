"""Which estimate of the sensitivities to believe: the one whose coarse copies of the adapter stay closest to it.

Every estimate is a local or a decorrelated view of a model that is neither, and which one is right depends on the
model: a classifier that is sure of itself has almost no gradient where its adapter does most. So each is tried: the
adapter is rounded under it to a few sizes, put on the base, and compared with the adapter itself on the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import torch
from torch import Tensor

from adaptzip.adapter import Adapter
from adaptzip.calibration.coarse import Updates, change, coordinates, copy_of_error, copy_of_size
from adaptzip.calibration.models import Batch, LoadedModel
from adaptzip.sensitivity import Sensitivity

Sensitivities = Mapping[str, Sensitivity]

ERRORS = (0.2, 0.35, 0.5)
"""Relative errors of the unweighted copies whose sizes the estimates are compared at."""
EQUAL = "equal"
"""The estimate that every module weighs the same, which is always among those tried."""
_ATTRIBUTED_ERRORS = (0.25, 0.5)
_STATIONS = (0.25, 0.75)
_FLOOR = 0.05
"""Smallest attributed weight, as a share of the mean."""


@dataclass(frozen=True)
class Choice:
    """What was believed.

    Attributes:
        name: of the estimate.
        distances: by estimate, the distance of its coarse copies from the adapter as a share of the unweighted ones',
            in the geometric mean over sizes.
    """

    name: str
    distances: Mapping[str, float]


def choose(
    loaded: LoadedModel, adapter: Adapter, estimates: Mapping[str, Sensitivities], batches: Sequence[Batch]
) -> Choice:
    """Try estimates at the sizes of unweighted copies.

    Kept is the best on the whole of those that do no harm at any size, and equal weights if there is none.
    """
    plain = {name: coordinates(module, Sensitivity()) for name, module in adapter.modules.items()}
    sizes = [copy_of_error(adapter.modules, plain, error)[1] for error in ERRORS]
    copies: dict[tuple[str, int], Updates] = {}
    for estimate, sensitivities in {EQUAL: {}, **estimates}.items():
        found = {
            name: coordinates(module, sensitivities.get(name, Sensitivity()))
            for name, module in adapter.modules.items()
        }
        copies |= {(estimate, place): copy_of_size(found, size) for place, size in enumerate(sizes)}
    measured = _distances(loaded, adapter, copies, batches)
    shares, harmless = {}, []
    for estimate in (EQUAL, *estimates):
        ratios = [measured[estimate, i] / max(measured[EQUAL, i], 1e-12) for i in range(len(sizes))]
        shares[estimate] = exp(sum(log(max(ratio, 1e-12)) for ratio in ratios) / len(ratios))
        if estimate == EQUAL or max(ratios) < 1:
            harmless.append(estimate)
    return Choice(min(harmless, key=lambda name: shares[name]), shares)


def attributed_weights(
    loaded: LoadedModel, adapter: Adapter, moments: Mapping[str, Tensor | None], batches: Sequence[Batch]
) -> dict[str, float]:
    """How much of coarse copies' distance is due to each module, by its (moment-weighted) squared error.

    The distance is integrated along the way from the adapter to the copy, so that it is shared out in full
    (integrated gradients; Sundararajan et al. 2017, arXiv 1703.01365). The mean over two copies, each in shares of
    its own mean.
    """
    plain = {name: coordinates(module, Sensitivity()) for name, module in adapter.modules.items()}
    total = dict.fromkeys(adapter.modules, 0.0)
    for error in _ATTRIBUTED_ERRORS:
        copy, _ = copy_of_error(adapter.modules, plain, error)
        for name, weight in _attributed(loaded, adapter, copy, moments, batches).items():
            total[name] += weight / len(_ATTRIBUTED_ERRORS)
    return total


def _attributed(
    loaded: LoadedModel,
    adapter: Adapter,
    copy: Updates,
    moments: Mapping[str, Tensor | None],
    batches: Sequence[Batch],
) -> dict[str, float]:
    """The weights that one copy gives, with mean about 1."""
    changes = {name: change(module, copy[name]) for name, module in adapter.modules.items()}
    for layer in loaded.layers.values():
        layer.parameter.requires_grad_(True)
    shares = dict.fromkeys(changes, 0.0)
    with _Swapped(loaded, adapter) as swapped:
        for batch in batches:
            with torch.no_grad():
                teacher = loaded(batch)
            for station in _STATIONS:
                swapped.put(copy, station)
                distance = loaded.distance(teacher, loaded(batch))
                for name, gradient in _gradients(loaded, distance).items():
                    shares[name] += float((gradient.cpu() * changes[name]).sum())
                swapped.restore()
    weights = {}
    for name, error in changes.items():
        square = moments.get(name)
        size = float(((error if square is None else error @ square) * error).sum())
        weights[name] = shares[name] / size if size > 0 else 0.0
    mean = sum(max(weight, 0.0) for weight in weights.values()) / len(weights)
    return {name: max(weight / mean, _FLOOR) if mean > 0 else 1.0 for name, weight in weights.items()}


def _distances(
    loaded: LoadedModel, adapter: Adapter, copies: Mapping[tuple[str, int], Updates], batches: Sequence[Batch]
) -> dict[tuple[str, int], float]:
    """Summed distance of every copy from the adapter."""
    totals = dict.fromkeys(copies, 0.0)
    with torch.no_grad(), _Swapped(loaded, adapter) as swapped:
        for batch in batches:
            teacher = loaded(batch).double()
            for key, copy in copies.items():
                swapped.put(copy)
                totals[key] += float(loaded.distance(teacher, loaded(batch).double()))
                swapped.restore()
    return totals


def _gradients(loaded: LoadedModel, loss: Tensor) -> dict[str, Tensor]:
    parameters = [layer.parameter for layer in loaded.layers.values()]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {
        name: layer.as_update(torch.zeros_like(layer.parameter) if gradient is None else gradient)
        for (name, layer), gradient in zip(loaded.layers.items(), found, strict=True)
    }


class _Swapped:
    """A loaded model whose adapter can be changed for a while; the weights are put back exactly."""

    def __init__(self, loaded: LoadedModel, adapter: Adapter) -> None:
        self._loaded, self._adapter = loaded, adapter
        self._kept: dict[str, Tensor] = {}

    def __enter__(self) -> _Swapped:
        self._kept = {name: layer.weight.clone() for name, layer in self._loaded.layers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def put(self, copy: Updates, share: float = 1.0) -> None:
        """Move every module by a share of its way to the copy."""
        for name, layer in self._loaded.layers.items():
            moved = layer.as_weight(change(self._adapter.modules[name], copy[name])) * share
            with torch.no_grad():
                layer.weight.add_(moved.to(layer.weight))

    def restore(self) -> None:
        for name, layer in self._loaded.layers.items():
            with torch.no_grad():
                layer.weight.copy_(self._kept[name])
