"""Merging an adapter into a base model of any form: a model's folder, a pipeline's, or a file in original names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Compressed
from adaptzip.core.linalg import choose_device
from adaptzip.errors import UsageError
from adaptzip.files.atomic import check_output, check_output_folder
from adaptzip.files.inputs import check_apart
from adaptzip.models.folder import BaseModel
from adaptzip.models.pipelines import is_pipeline
from adaptzip.models.single import is_single_file, open_file
from adaptzip.restoring.merging.folders import MergeReport, merge_folder, merged_files, tokenizer_warnings
from adaptzip.restoring.merging.image.files import check_file_name, write_file
from adaptzip.restoring.merging.image.pipelines import Writing, pipeline_files, write_pipeline
from adaptzip.restoring.merging.image.planning import alone, naming_families, plan_file, plan_pipeline
from adaptzip.restoring.merging.labels import label_names
from adaptzip.restoring.merging.plan import plan_merge
from adaptzip.restoring.merging.provenance import Origins, origins_of
from adaptzip.restoring.merging.tokenizers import adapter_folder, choose_tokenizer
from adaptzip.restoring.merging.weights import Progress
from adaptzip.restoring.reading import adapter_from


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
    untie: bool = False,
    tokenizer: str | Path | None = None,
    origins: Origins | None = None,
    progress: Progress | None = None,
) -> MergeReport:
    """Write the base model with the adapter's updates added to its weights.

    On the CPU the weights are bit-identical to those of PEFT's `merge_and_unload`. The model is never whole
    in memory: its tensors are read, changed and written one at a time, into as many files as the base has.
    The base's other files are carried over; config.json is changed where a trained head or embedding asks for
    it, and has the adapter's names of its labels where it brings them. What was merged stands in a section of
    README.md and in adaptzip_merge.json. The adapter's tokenizer takes the base's place where its folder brings a
    whole one. Every changed tensor is checked for NaN and infinity. Before anything has its name, the model is opened
    as transformers would, where that is installed: what config.json names and what the weight files hold must fit.

    A LoRA of an image model is merged into a diffusers pipeline, each module into its component, all other files as
    they are; into the folder of one component; or into one safetensors file in the names of the original
    implementation, which is written as one file whose metadata tells what was merged. A layer that is one in the base
    and several in the adapter, or the other way round, is merged by its rows.

    Args:
        source: an adapter, or a `.adz` file, PEFT folder or weight file that holds one.
        base: the folder of the base model, or of a diffusers pipeline; or an image model's safetensors file.
        output: the folder to write; a safetensors file where the base is one.
        safe_merge: round each update to the weight's dtype before adding it, as PEFT's safe_merge does.
        scale: multiplies every update; extras are applied in full.
        device: "cpu", "cuda", "cuda:1" or "auto"; on CUDA the last bits may differ from the CPU's.
        force: replace an existing output folder.
        basis: the basis artefact or its path, for a `.adz` file that names one; one whose basis is that of the base
            weights takes them from `base`.
        untie: give each tied embedding the updates of its own alone, so that the model computes what the live adapter
            does; PEFT's merge adds an update of one to all of them.
        tokenizer: the adapter's folder, where `source` does not tell it.
        origins: what an adapter in memory was made of, for the model card and the provenance.
        progress: called after each tensor.

    Raises:
        CheckpointError: if the adapter cannot be read.
        BaseModelError: if the base cannot be read or does not fit the adapter.
        RefusedError: if the base is quantised or a link leads out of its folder, the source is not a low-rank update,
            or its basis is missing or another.
        CheckFailedError: if a weight holds NaN or infinity after its merge; nothing is written then.
        UsageError: if `output` is, holds or lies in what is read, or is no safetensors file where the base is one.
        OutputError: if `output` exists without `force`, or cannot be written.

    Example:
        >>> report = adaptzip.merge("my-adapter", "base-model", "merged")
        >>> report.modules == len(adaptzip.read("my-adapter").modules), report.extras
        (True, 2)
        >>> "model.safetensors" in report.files
        True
    """
    check_apart(output, source=source, base=base, basis=basis)
    check_output_form(output, base, force)
    chosen = choose_device(device)
    path, target = Path(base), Path(output)
    image = is_image_base(path)
    if image:
        _check_image_options(path, untie=untie)
    model = None if image else BaseModel.open(path)
    adapter = adapter_from(source, base=base, basis=basis)
    if origins is None:
        origins = origins_of([source]) if isinstance(source, str | Path) else Origins()
    if model is not None:
        named = source if tokenizer is None and isinstance(source, str | Path) else tokenizer
        own = None if named is None else adapter_folder(Path(named))
        with naming_families(adapter, model):
            return merge_folder(
                alone(adapter, model),
                model,
                target,
                safe_merge=safe_merge,
                scale=scale,
                device=chosen,
                force=force,
                untie=untie,
                own=own,
                origins=origins,
                progress=progress,
            )
    options = {"scale": scale, "safe_merge": safe_merge, "untie": False, "device": chosen.type}
    how = Writing(options, chosen, force, origins, adapter.meta.base_model, progress)
    if is_single_file(path):
        return write_file(plan_file(adapter, open_file(path), scale), target, how)
    return write_pipeline(plan_pipeline(adapter, path, scale), target, how)


def plan_any(adapter: Adapter, base: Path, output: Path, scale: float, *, untie: bool, source: Path) -> dict[str, Any]:
    """What `merge` would report, without writing anything.

    Args:
        adapter: what would be merged.
        base: the base model, in any form.
        output: what would be written.
        scale: as for `merge`.
        untie: likewise.
        source: the adapter's file or folder.

    Raises:
        BaseModelError, RefusedError: as `merge`.
    """
    told = {"tokenizer": None, "untied": False}
    if is_image_base(base):
        _check_image_options(base, untie=untie)
    if is_single_file(base):
        plan = plan_file(adapter, open_file(base), scale)
        size = sum(tensor.bytes for tensor in plan.tensors.values())
        return _planned(size, [output.name], plan.modules, plan.extras, plan.warnings) | told
    if is_pipeline(base):
        whole = plan_pipeline(adapter, base, scale)
        size = sum(tensor.bytes for part in whole.parts.values() for tensor in part.tensors.values())
        return _planned(size, pipeline_files(whole), whole.modules, whole.extras, whole.warnings) | told
    model, own = BaseModel.open(base), adapter_folder(source)
    with naming_families(adapter, model):
        plan = plan_merge(alone(adapter, model), model, scale, untie=untie, labels=label_names(adapter, own))
    tokenizer = choose_tokenizer(base, own)
    size = sum(tensor.bytes for tensor in plan.tensors.values())
    warnings = (*plan.warnings, *tokenizer_warnings(plan, tokenizer))
    found = _planned(size, merged_files(plan, tokenizer), plan.modules, plan.extras, warnings)
    return found | {"tokenizer": tokenizer.origin, "untied": plan.untied}


def _planned(size: int, files: list[str], modules: int, extras: int, warnings: tuple[str, ...]) -> dict[str, Any]:
    return {"bytes": size, "files": files, "modules": modules, "extras": extras, "warnings": list(warnings)}


def is_image_base(base: Path) -> bool:
    """Whether a base model is an image model's file, or a pipeline's folder, and no single model's folder."""
    return is_single_file(base) or is_pipeline(base)


def check_output_form(output: str | Path, base: str | Path, force: bool) -> None:
    """Refuse an output before any work for it is done.

    Raises:
        UsageError: if the base model is one file and the output is none.
        OutputError: as `check_output` and `check_output_folder`.
    """
    if is_single_file(base):
        check_file_name(Path(output), Path(base))
        check_output(output, force)
    else:
        check_output_folder(output, force)


def _check_image_options(base: Path, *, untie: bool) -> None:
    if untie:
        raise UsageError(f"{base}: an image model has no tied embeddings to keep apart", hint="leave --untie out")
