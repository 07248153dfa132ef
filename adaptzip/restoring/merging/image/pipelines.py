"""Writing a pipeline with an adapter merged into its components, and everything else as it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from adaptzip.core.adapter import Adapter
from adaptzip.core.progress import Progress
from adaptzip.errors import UsageError
from adaptzip.files.atomic import atomic_directory, check_output_folder
from adaptzip.files.journal import Journal
from adaptzip.models.others import other_files, whole_folder
from adaptzip.models.pipelines import component_folders, is_pipeline
from adaptzip.restoring.merging.card import is_merged_card, read_card, write_card
from adaptzip.restoring.merging.finishing import Record
from adaptzip.restoring.merging.image.planning import PipelinePlan, plan_pipeline
from adaptzip.restoring.merging.index import write_index, write_json
from adaptzip.restoring.merging.names import check_folder_name, weight_file_names, written_names
from adaptzip.restoring.merging.opening import check_opens, check_written
from adaptzip.restoring.merging.plan import MergePlan
from adaptzip.restoring.merging.provenance import NAME as PROVENANCE
from adaptzip.restoring.merging.provenance import fingerprints, provenance, told_place, weights_of
from adaptzip.restoring.merging.quantised_bases import OPTIONS
from adaptzip.restoring.merging.report import MergeReport, broken_warnings
from adaptzip.restoring.merging.resuming import merge_key
from adaptzip.restoring.merging.rounding import Ledger
from adaptzip.restoring.merging.weights import Written, write_weights
from adaptzip.restoring.merging.writing import Form, Writing
from adaptzip.restoring.model_card import NAME as README

_TOLD = (README, PROVENANCE)


def check_untied(base: Path, asked: Writing) -> None:
    """Raises: UsageError: if tied embeddings are to be kept apart, which image models do not have."""
    if asked.untie:
        raise UsageError(f"{base}: an image model has no tied embeddings to keep apart", hint="leave `untie=True` out")


def _check(base: Path, output: Path, asked: Writing) -> None:
    check_untied(base, asked)
    if asked.how is not None:
        raise UsageError(
            f"{base}: {OPTIONS[asked.how]} is for one model and not for a pipeline",
            hint="give the component as the base",
        )
    check_folder_name(output, base)
    check_output_folder(output, asked.force)


def _plan(adapter: Adapter, base: Path, output: Path, writing: Writing) -> PipelinePlan:
    return plan_pipeline(adapter, base, writing.scale)


def _foretell(plan: PipelinePlan, output: Path) -> MergeReport:
    size = sum(tensor.bytes for part in plan.parts.values() for tensor in part.tensors.values())
    files = tuple(pipeline_files(plan))
    return MergeReport(output, size, files, plan.modules, plan.extras, warnings=plan.warnings)


def write_pipeline(plan: PipelinePlan, output: Path, writing: Writing) -> MergeReport:
    """Write the pipeline, its changed components file by file; all at once or not at all.

    Raises:
        BaseModelError, RefusedError: if a file of the base can't be carried over.
        CheckFailedError: if a weight holds NaN or infinity after its merge.
        OutputError: if `output` cannot be written, or may not be replaced.
    """
    carried = carried_files(plan)
    owned = partial(_is_owned, {*pipeline_files(plan)}, output)
    keys = {name: merge_key(part, writing.options) for name, part in plan.parts.items()}
    key = sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()
    with atomic_directory(output, writing.force, owned=owned, key=key) as folder:
        for file in carried:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(plan.path / file, folder / file)
        warnings = [warning for name, part in plan.parts.items() for warning in _write_part(part, folder / name)]
        found = _write_weights(plan, folder, Journal.beside(folder, key), writing)
        told = _told(plan, folder, writing)
        write_json(folder / PROVENANCE, told)
        card = plan.path / README
        write_card(folder, read_card(card) if card.is_file() else None, told)
        for name, part in plan.parts.items():
            check_written(part, folder / name)
        files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    return MergeReport(
        output,
        sum(files.values()),
        tuple(sorted(files)),
        plan.modules,
        plan.extras,
        warnings=(*plan.warnings, *warnings, *broken_warnings(found.broken)),
        resumed=found.resumed,
    )


FORM = Form(is_pipeline, _check, _plan, _foretell, write_pipeline)
"""A diffusers pipeline's folder."""


def carried_files(plan: PipelinePlan) -> tuple[Path, ...]:
    """The files that are copied as they are, relative to the pipeline: all but the weights of changed components, and
    weights that are of no component.

    Raises:
        BaseModelError: if one is a link that leads nowhere, or a git-LFS pointer.
        RefusedError: if one is a link that leads out of the pipeline.
    """
    found = dict.fromkeys(other_files(plan.path, ()))
    for name, folder in component_folders(plan.path).items():
        if name not in plan.parts:
            found |= dict.fromkeys(whole_folder(folder, plan.path))
    return tuple(file for file in found if file.as_posix() not in _TOLD)


def pipeline_files(plan: PipelinePlan) -> list[str]:
    """The names of all files of the merged pipeline, sorted."""
    weights = [f"{name}/{file}" for name, part in plan.parts.items() for file in written_names(part.base)]
    return sorted({*_TOLD, *weights, *(file.as_posix() for file in carried_files(plan))})


def _write_part(part: MergePlan, folder: Path) -> tuple[str, ...]:
    folder.mkdir(exist_ok=True)
    if part.config is not None:
        write_json(folder / "config.json", part.config)
    write_index(part, folder)
    return check_opens(part, folder)


def _write_weights(plan: PipelinePlan, folder: Path, journal: Journal, writing: Writing) -> Written:
    total = sum(len(part.tensors) for part in plan.parts.values())
    done, broken, resumed = 0, [], 0
    for name, part in plan.parts.items():
        progress = None if writing.progress is None else partial(_onwards, writing.progress, done, total)
        record = Record(journal, Ledger(), f"{name}/")
        found = write_weights(
            part, folder / name, safe=writing.safe, device=writing.device, progress=progress, record=record
        )
        broken += [f"{name}.{tensor}" for tensor in found.broken]
        resumed += found.resumed
        done += len(part.tensors)
    return Written(tuple(broken), resumed)


def _onwards(progress: Progress, before: int, total: int, phase: str, done: float, _: float) -> None:
    progress(phase, before + done, total)


def _told(plan: PipelinePlan, folder: Path, writing: Writing) -> dict[str, Any]:
    """The provenance of the whole, of whose files each has its component before its name."""
    before = _prefixed({name: weights_of(part.base) for name, part in plan.parts.items()})
    after = {
        name: fingerprints(folder / name / file for file in weight_file_names(part.base))
        for name, part in plan.parts.items()
    }
    base = {**told_place(plan.path, writing.base_model), "files": before}
    return provenance(base, plan, writing.origins, writing.options) | {"files": _prefixed(after)}


def _prefixed(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{name}/{file}": value for name, part in files.items() for file, value in part.items()}


def _is_owned(names: Collection[str], output: Path, name: str) -> bool:
    """Whether a merged pipeline of this base may have a file of this name; a README only with a merge's section, unless
    the base brings one."""
    if name == README:
        return is_merged_card(output / README)
    return name in names
