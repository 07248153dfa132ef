"""Writing a file of an image model in original names with an adapter merged into the models in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from adaptzip.core.adapter import Adapter
from adaptzip.errors import UsageError
from adaptzip.files.atomic import atomic_draft, check_output
from adaptzip.models.folder import BaseModel
from adaptzip.models.shards import open_shard, read_metadata
from adaptzip.models.single import SUFFIX, check_single, is_single_file, open_file
from adaptzip.restoring.merging.image.pipelines import check_untied
from adaptzip.restoring.merging.image.planning import plan_file
from adaptzip.restoring.merging.opening import check_tensors
from adaptzip.restoring.merging.plan import MergePlan
from adaptzip.restoring.merging.provenance import KEY, provenance, told_base
from adaptzip.restoring.merging.quantised_bases import check_quantised, prepared
from adaptzip.restoring.merging.report import MergeReport, broken_warnings
from adaptzip.restoring.merging.rounding import Ledger
from adaptzip.restoring.merging.weights import write_weights
from adaptzip.restoring.merging.writing import Form, Writing

_OF_OLD_WEIGHTS = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
"""Fields that are fingerprints of the base's own weights."""


def check_file_name(output: Path, base: Path) -> None:
    """Refuse an output that is no file of safetensors.

    Raises:
        BaseModelError: if the base is no model by itself.
        UsageError: if the output is no such file.
    """
    check_single(base)
    if output.suffix != SUFFIX or output.is_dir():
        raise UsageError(
            f"{output}: expected the name of a {SUFFIX} file, as the base model {base} is one",
            hint=f"name a file: `output='{output.with_suffix(SUFFIX) if output.name else 'merged' + SUFFIX}'`",
        )


@dataclass(frozen=True, eq=False)
class FilePlan:
    """What will be written of a file, and where it is noted what rounding leaves of updates."""

    merged: MergePlan
    ledger: Ledger


def _check(base: Path, output: Path, asked: Writing) -> None:
    check_untied(base, asked)
    if asked.how == "requantised":
        raise UsageError(
            f"{base}: `requantise=True` is for folders and GGUF, and not for a file in original names",
            hint="write bfloat16 with `dequantise=True`",
        )
    check_file_name(output, base)
    check_output(output, asked.force)


def _plan(adapter: Adapter, base: Path, output: Path, writing: Writing) -> FilePlan:
    file, ledger = open_file(base, dequantised=writing.how == "dequantised"), Ledger()
    check_quantised(file, writing.how)
    return FilePlan(prepared(plan_file(adapter, file, writing.scale), writing.how, ledger), ledger)


def _foretell(plan: FilePlan, output: Path) -> MergeReport:
    merged = plan.merged
    size = sum(tensor.bytes for tensor in merged.tensors.values())
    return MergeReport(output, size, (output.name,), merged.modules, merged.extras, warnings=merged.warnings)


def _write(whole: FilePlan, output: Path, writing: Writing) -> MergeReport:
    """Write the file with its changed tensors; its metadata is the base's, with the provenance.

    Raises:
        CheckFailedError: if a weight holds NaN or infinity after its merge.
        OutputError: if `output` exists without `force`, or cannot be written.
    """
    plan = whole.merged
    # The file can hold neither its own fingerprint nor what is measured while it is written.
    told = provenance(told_base(plan.base, writing.base_model), plan, writing.origins, writing.options)
    plan = replace(plan, metadata=_metadata(plan.base) | {KEY: json.dumps(told, ensure_ascii=False)})
    with atomic_draft(output, writing.force) as new:
        found = write_weights(
            plan,
            new.parent,
            safe=writing.safe,
            device=writing.device,
            progress=writing.progress,
            names=[new.name],
        )
        check_tensors(plan, BaseModel(output, (open_shard(new),)))
        size = new.stat().st_size
    rounding = None if writing.how is None else whole.ledger.rounding(writing.how)
    warnings = (*plan.warnings, *broken_warnings(found.broken))
    return MergeReport(output, size, (output.name,), plan.modules, plan.extras, warnings=warnings, rounding=rounding)


FORM = Form(is_single_file, _check, _plan, _foretell, _write)
"""A safetensors file in the names of an original implementation."""


def _metadata(base: BaseModel) -> dict[str, str]:
    found = read_metadata(base.shards[0].path) or {"format": "pt"}
    return {key: value for key, value in found.items() if key not in _OF_OLD_WEIGHTS}
