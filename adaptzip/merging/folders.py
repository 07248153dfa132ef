"""Merging an adapter into its base model's weights, tensor by tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adaptzip.adapter import Adapter
from adaptzip.atomic import atomic_directory, check_output_folder
from adaptzip.base.model import BaseModel
from adaptzip.basis import Basis
from adaptzip.checkpoints._safetensors import Pending, build_header, write_tensors
from adaptzip.errors import CheckFailedError
from adaptzip.files.inputs import check_apart
from adaptzip.linalg import choose_device
from adaptzip.merging.names import index_file_name, weight_file_names
from adaptzip.merging.plan import MergePlan, Output, plan_merge
from adaptzip.merging.rules import is_finite

if TYPE_CHECKING:
    from adaptzip.compressed import Compressed

Progress = Callable[[int, int], None]
"""Called with the number of tensors written so far and the number of all tensors."""


@dataclass(frozen=True)
class MergeReport:
    """What `merge` wrote.

    Attributes:
        path: the folder of the merged model.
        bytes: size of all its files.
        files: their names, sorted.
        modules: how many modules were merged.
        extras: how many extras (heads, biases, token rows, embeddings) were applied.
    """

    path: Path
    bytes: int
    files: tuple[str, ...]
    modules: int
    extras: int

    def as_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "files": list(self.files),
            "modules": self.modules,
            "extras": self.extras,
        }


def merge(
    source: str | Path | Adapter | Compressed,
    base: str | Path,
    output: str | Path,
    *,
    safe_merge: bool = False,
    scale: float = 1.0,
    device: str = "cpu",
    force: bool = False,
    basis: str | Path | Basis | None = None,
    progress: Progress | None = None,
) -> MergeReport:
    """Write the base model with the adapter's updates added to its weights.

    On the CPU the weights are bit-identical to those of PEFT's `merge_and_unload`. The model is never whole
    in memory: its tensors are read, changed and written one at a time, into as many files as the base has.
    The base's other files are carried over; config.json is changed where a trained head or embedding asks for
    it. Every changed tensor is checked for NaN and infinity.

    Args:
        source: an adapter, or a `.adz` file, PEFT folder or weight file that holds one.
        base: the folder of the base model.
        output: the folder to write.
        safe_merge: round each update to the weight's dtype before adding it, as PEFT's safe_merge does.
        scale: multiplies every update; extras are applied in full.
        device: "cpu", "cuda", "cuda:1" or "auto"; on CUDA the last bits may differ from the CPU's.
        force: replace an existing output folder.
        basis: the basis artefact or its path, for a `.adz` file that names one; one whose basis is that of the base
            weights takes them from `base`.
        progress: called after each tensor.

    Raises:
        CheckpointError: if the adapter cannot be read.
        BaseModelError: if the base cannot be read or does not fit the adapter.
        RefusedError: if the base is quantised or a link leads out of its folder, the source is not a low-rank update,
            or its basis is missing or another.
        CheckFailedError: if a merged weight holds NaN or infinity; nothing is written then.
        UsageError: if `output` is, holds or lies in what is read.
        OutputError: if `output` exists without `force`, or cannot be written.
    """
    check_apart(output, source=source, base=base, basis=basis)
    check_output_folder(output, force)
    chosen = choose_device(device)
    model = BaseModel.open(base)
    plan = plan_merge(_adapter(source, base, basis), model, scale)
    owned = _owned(plan)
    with atomic_directory(output, force, owned=owned.__contains__) as folder:
        _write_weights(plan, folder, safe_merge, chosen, progress)
        _write_others(plan, folder)
        files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    return MergeReport(Path(output), sum(files.values()), tuple(sorted(files)), plan.modules, plan.extras)


def _adapter(source: str | Path | Adapter | Compressed, base: str | Path, basis: str | Path | Basis | None) -> Adapter:
    if isinstance(source, Adapter):
        return source
    if isinstance(source, str | Path):
        from adaptzip.sources import read

        return read(source, base=base, basis=basis)
    from adaptzip.reconstruction import reconstruct

    return reconstruct(source, base=base, basis=basis)


def _owned(plan: MergePlan) -> frozenset[str]:
    """The names that a merged model of this base has."""
    index = index_file_name(plan.base)
    made = [*weight_file_names(plan.base), *([] if index is None else [index]), "config.json"]
    return frozenset([*made, *(p.as_posix() for p in plan.base.others)])


def _write_weights(plan: MergePlan, folder: Path, safe: bool, device: torch.device, progress: Progress | None) -> None:
    total = sum(len(outputs) for outputs in plan.outputs)
    done = count(1)

    def make(output: Output) -> Tensor:
        weight = _merged(plan.base, output, safe, device)
        if progress is not None:
            progress(next(done), total)
        return weight

    for name, outputs in zip(weight_file_names(plan.base), plan.outputs, strict=True):
        tensors = {o.stored.name: Pending(o.stored.shape, o.stored.dtype, partial(make, o)) for o in outputs}
        header = build_header(tensors, {"format": "pt"})
        with (folder / name).open("wb") as handle:
            write_tensors(handle, tensors, header)
    index = index_file_name(plan.base)
    if index is not None:
        _write_json(folder / index, _index(plan))


def _merged(base: BaseModel, output: Output, safe: bool, device: torch.device) -> Tensor:
    """One tensor of the merged model."""
    if output.source is None:
        weight = torch.empty(output.stored.shape, dtype=output.stored.dtype, device=device)
    else:
        weight = base.read(output.source)
    if not output.edits:
        return weight
    weight = weight.to(device)
    for edit in output.edits:
        weight = edit.apply(weight, safe)
    if not is_finite(weight):
        raise CheckFailedError(
            f"merging makes NaN or infinity in {output.stored.name}, a {weight.dtype} tensor",
            hint="the adapter is broken, or its update is too large for the base's dtype",
        )
    return weight


def _index(plan: MergePlan) -> dict[str, object]:
    """The base's index with the merged model's names, files and sizes."""
    weight_map, size, numbers = {}, 0, 0
    for file, outputs in zip(weight_file_names(plan.base), plan.outputs, strict=True):
        for output in outputs:
            weight_map[output.stored.name] = file
            size += output.stored.bytes
            numbers += torch.Size(output.stored.shape).numel()
    index = dict(plan.base.index or {})
    known = index.get("metadata")
    metadata = (dict(known) if isinstance(known, Mapping) else {}) | {"total_size": size}
    if "total_parameters" in metadata:
        metadata["total_parameters"] = numbers
    return index | {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}


def _write_others(plan: MergePlan, folder: Path) -> None:
    for relative in plan.base.others:
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if relative.as_posix() == "config.json" and plan.config is not None:
            _write_json(target, plan.config)
        else:
            shutil.copyfile(plan.base.path / relative, target)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
