"""One basis for the adapters of a group: a task for a few modules goes through all adapters in their order, twice.

The first time it sketches the directions, the second time it sees what they hold of every update, and adds up the mean.
Nothing is reduced over tasks, so that the result does not depend on who did them; memory is that of the directions of
the task's modules, however many adapters there are.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.bases.artefact import BasisDtype, write_basis
from adaptzip.bases.streaming import ModuleSketch
from adaptzip.bases.updates import add_updates, components
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.basis import Basis, BasisReference, ModuleBasis
from adaptzip.core.projection import Projection, project
from adaptzip.core.rates import falling
from adaptzip.core.workers import on_one_core
from adaptzip.files.tensors import build_header, pending, write_tensors
from adaptzip.files.weights import open_weights
from adaptzip.fitting.compression import make
from adaptzip.fitting.requests import Request
from adaptzip.fleet.grouping import STAGE as GROUPS
from adaptzip.fleet.grouping import Group, groups_of
from adaptzip.fleet.runs import Json, Run, Stage
from adaptzip.fleet.scanning import read_source
from adaptzip.fleet.store.layout import artefact_named

DIRECTIONS, ARTEFACTS, TIDY = "directions", "artefacts", "tidy"
_AT_ONCE = 4
"""Modules of a task at most, which goes through the files of all adapters."""
_BYTES_AT_ONCE = 2**26
"""And of their sketches, unless one has more."""

_ERROR_OF_MEAN = 0.1
"""At which the mean's own size is told."""

Array = NDArray[np.float64]


def directions_stage(run: Run) -> Stage:
    """Find the directions of every group's modules, after `adaptzip.fleet.grouping`."""
    payloads: list[Json] = []
    for number, group in enumerate(groups_of(run)):
        for part, names in enumerate(_portions(group, run.plan.settings["size"])):
            payloads.append({"group": number, "modules": names, "file": f"{number:04d}-{part:06d}.safetensors"})
    return Stage(DIRECTIONS, f"{__name__}:find", payloads)


def artefacts_stage(run: Run) -> Stage:
    """Write a basis for each group, after `directions_stage`."""
    parts: dict[int, list[Json]] = {}
    for place, payload in enumerate(directions_stage(run).payloads):
        parts.setdefault(payload["group"], []).append({"place": place, "file": payload["file"]})
    return Stage(ARTEFACTS, f"{__name__}:join", [{"group": number, "parts": own} for number, own in parts.items()])


def tidy_stage(run: Run) -> Stage:
    """Remove what is needed no more when all is written."""
    return Stage(TIDY, f"{__name__}:tidy", [{}])


def tidy(run: Run, payload: Json) -> Json:
    """Remove the directions that the bases were chosen from, which are larger than these."""
    for file in run.tree.names(run.file(DIRECTIONS, "")[:-1]):
        if not file.endswith(".json"):
            run.tree.remove(file)
    return {}


@on_one_core()
def find(run: Run, payload: Json) -> Json:
    """The directions of some modules, and what the first so many hold of the members' energy."""
    group, names, size = groups_of(run)[payload["group"]], payload["modules"], run.plan.settings["size"]
    weights = run.result(GROUPS)["weights"]
    sources = run.plan.sources
    sketches = {name: ModuleSketch(size) for name in names}
    for place in group.members:
        updates = components(read_source(run, sources[place]).modules, names)
        add_updates(sketches, updates, weights[place])
    found = {name: sketch.directions() for name, sketch in sketches.items() if sketch.shape is not None}
    tallies = {name: _Tally(module) for name, module in found.items()}
    for place in group.members:
        modules = read_source(run, sources[place]).modules
        for name, tally in tallies.items():
            tally.add(project(modules[name], found[name]), weights[place])
    means = {name: tally.total / len(group.members) for name, tally in tallies.items()}
    run.tree.write(run.file(DIRECTIONS, payload["file"]), _packed(found, means))
    return {"modules": {name: tally.told() for name, tally in tallies.items()}}


@on_one_core()
def join(run: Run, payload: Json) -> Json:
    """Choose how many directions each module keeps, and write the basis."""
    group, settings = groups_of(run)[payload["group"]], run.plan.settings
    told: dict[str, Json] = {}
    for part in payload["parts"]:
        told |= run.fresh(DIRECTIONS, part["place"])["modules"]
    sizes, kept = sizes_for(told, group.shapes, settings["share"])
    modules: dict[str, ModuleBasis] = {}
    for part in payload["parts"]:
        for name, module in _read(run, part["file"]).items():
            cut = module.leading(sizes[name])
            mean = cut.mean.contiguous() if cut.mean is not None and settings["mean"] else None
            modules[name] = ModuleBasis(cut.U.contiguous(), cut.V.contiguous(), mean)
    count = len(group.members)
    reference = BasisReference("embedded", max(sizes.values()), "", f"updates of {count} adapters")
    with TemporaryDirectory(prefix="adaptzip-") as folder:
        path = Path(folder) / "new.basis"
        dtype: BasisDtype = settings["dtype"]
        written = write_basis(Basis(modules, reference), path, dtype=dtype)
        content = path.read_bytes()
    file = artefact_named(written.source, written.hash)
    run.tree.write(file, content)
    mean_bytes = _bytes_of_mean(modules)
    return {"artefact": file, "bytes": len(content), "sizes": sizes, "kept": kept, "mean_bytes": mean_bytes}


def _bytes_of_mean(modules: Mapping[str, ModuleBasis]) -> int | None:
    """What the mean alone takes as a file of its own; None without one, or where it is zero."""
    factors = {
        name: LoraFactors(module.V.T.contiguous(), module.U @ module.mean, 1.0)
        for name, module in modules.items()
        if module.mean is not None and bool(module.mean.any())
    }
    if not factors:
        return None
    return make(Adapter(factors), Request(max_error=_ERROR_OF_MEAN, effort="fast")).size


def sizes_for(
    told: Mapping[str, Json], shapes: Mapping[str, tuple[int, int]], share: float
) -> tuple[dict[str, int], float]:
    """How many directions each module keeps, at least one, so that together they hold a share of the energy: the
    directions that hold most for the numbers they take.

    Args:
        told: by module: its "energy", and what the first so many directions hold of it, "captured".

    Returns:
        The sizes, and the share that they hold.
    """
    total = sum(one["energy"] for one in told.values())
    worth: list[tuple[float, float, str]] = []
    for name, one in told.items():
        gains = np.diff(np.maximum.accumulate(one["captured"]), prepend=0.0)
        numbers = float(sum(shapes[name]))
        scores = falling(gains, np.ones(len(gains)))
        worth += [(score / numbers, gain, name) for score, gain in zip(scores, gains.tolist(), strict=True)]
    sizes, held = dict.fromkeys(told, 0), 0.0
    for _, gain, name in sorted(worth, key=lambda one: (-one[0], one[2])):
        if held < share * total or not sizes[name]:
            sizes[name] += 1
            held += gain
    return sizes, held / total if total else 1.0


class _Tally:
    """What directions hold of the updates of one module; it adds up."""

    def __init__(self, module: ModuleBasis) -> None:
        self.total: Tensor = torch.zeros(module.size, module.size, dtype=torch.float64)
        self._corners: Array = np.zeros(module.size)
        self._energy = 0.0

    def add(self, found: Projection, weight: float) -> None:
        """One adapter's update, its energy taken as if |dW| were 1 over all its modules."""
        self.total += found.core
        squares = found.core.square().numpy()
        self._corners += squares.cumsum(0).cumsum(1).diagonal() * weight**2
        self._energy += found.energy * weight**2

    def told(self) -> Json:
        return {"energy": self._energy, "captured": self._corners.tolist()}


def _portions(group: Group, size: int) -> list[list[str]]:
    """Successive modules, so many at once as a task takes."""
    found: list[list[str]] = [[]]
    filled = 0
    for name, (out, width) in group.shapes.items():
        needed = 8 * 4 * size * (out + width)
        if found[-1] and (len(found[-1]) >= _AT_ONCE or filled + needed > _BYTES_AT_ONCE):
            found.append([])
            filled = 0
        found[-1].append(name)
        filled += needed
    return [names for names in found if names]


def _packed(modules: Mapping[str, ModuleBasis], means: Mapping[str, Tensor]) -> bytes:
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}.U": module.U, f"{name}.V": module.V, f"{name}.mean": means[name].float()}
    waiting = {key: pending(tensor.contiguous()) for key, tensor in tensors.items()}
    handle = io.BytesIO()
    write_tensors(handle, waiting, build_header(waiting, {}))
    return handle.getvalue()


def _read(run: Run, file: str) -> dict[str, ModuleBasis]:
    with run.tree.near(run.file(DIRECTIONS, file)) as path:
        tensors = {key: tensor.clone() for key, tensor in open_weights(path).tensors.items()}
    names = sorted(key.removesuffix(".U") for key in tensors if key.endswith(".U"))
    return {name: ModuleBasis(*(tensors[f"{name}.{part}"] for part in ("U", "V", "mean"))) for name in names}
