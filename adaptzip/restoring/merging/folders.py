"""Merging an adapter into a base model's folder, tensor by tensor."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from adaptzip.core.adapter import Adapter
from adaptzip.files.atomic import atomic_directory, check_output_folder
from adaptzip.files.journal import Journal
from adaptzip.restoring.merging.card import base_card, is_merged_card, write_card
from adaptzip.restoring.merging.finishing import Record
from adaptzip.restoring.merging.image.planning import alone, naming_families
from adaptzip.restoring.merging.index import write_index, write_json
from adaptzip.restoring.merging.labels import label_names
from adaptzip.restoring.merging.names import check_folder_name, weight_file_names, written_names
from adaptzip.restoring.merging.opening import check_opens, check_written
from adaptzip.restoring.merging.plan import MergePlan, listed, plan_merge
from adaptzip.restoring.merging.provenance import NAME as PROVENANCE
from adaptzip.restoring.merging.provenance import fingerprints, provenance, told_base
from adaptzip.restoring.merging.quantised_bases import How, open_base, prepared
from adaptzip.restoring.merging.report import MergeReport, broken_warnings
from adaptzip.restoring.merging.resuming import merge_key
from adaptzip.restoring.merging.rounding import Ledger
from adaptzip.restoring.merging.tokenizers import Tokenizer, choose_tokenizer, is_tokenizer_file
from adaptzip.restoring.merging.weights import write_weights
from adaptzip.restoring.merging.writing import Form, Writing
from adaptzip.restoring.model_card import NAME as README

_TOLD = (README, PROVENANCE)
"""Files that tell what was merged."""


@dataclass(frozen=True, eq=False)
class FolderPlan:
    """What will be written of a folder.

    Attributes:
        merged: what is done to its tensors.
        tokenizer: the tokenizer that the merged model carries.
        ledger: where it is noted what rounding leaves of updates.
    """

    merged: MergePlan
    tokenizer: Tokenizer
    ledger: Ledger


def _check(base: Path, output: Path, asked: Writing) -> None:
    check_folder_name(output, base)
    check_output_folder(output, asked.force)


def _plan(adapter: Adapter, base: Path, output: Path, writing: Writing) -> FolderPlan:
    model, ledger = open_base(base, writing.how), Ledger()
    labels = label_names(adapter, writing.own)
    with naming_families(adapter, model):
        plan = plan_merge(alone(adapter, model), model, writing.scale, untie=writing.untie, labels=labels)
    return FolderPlan(prepared(plan, writing.how, ledger), choose_tokenizer(model.path, writing.own), ledger)


def _foretell(plan: FolderPlan, output: Path) -> MergeReport:
    merged, tokenizer = plan.merged, plan.tokenizer
    return MergeReport(
        output,
        sum(tensor.bytes for tensor in merged.tensors.values()),
        tuple(_files(merged, tokenizer)),
        merged.modules,
        merged.extras,
        tokenizer.origin,
        merged.untied,
        (*merged.warnings, *_tokenizer_warnings(merged, tokenizer)),
    )


def _write(whole: FolderPlan, output: Path, writing: Writing) -> MergeReport:
    plan, tokenizer, how = whole.merged, whole.tokenizer, writing.how
    key = merge_key(plan, writing.options)
    with atomic_directory(output, writing.force, owned=partial(_is_owned, plan, output), key=key) as folder:
        _write_others(plan, tokenizer, folder)
        warnings = (*plan.warnings, *_tokenizer_warnings(plan, tokenizer), *_opening_warnings(plan, folder, how))
        record = Record(Journal.beside(folder, key), whole.ledger)
        found = write_weights(
            plan, folder, safe=writing.safe, device=writing.device, progress=writing.progress, record=record
        )
        write_index(plan, folder)
        written = [folder / name for name in weight_file_names(plan.base)]
        rounding = None if how is None else whole.ledger.rounding(how)
        told = provenance(told_base(plan.base, writing.base_model), plan, writing.origins, writing.options)
        told["files"] = fingerprints(written)
        told |= {} if rounding is None else {"rounding": rounding.as_dict()}
        write_json(folder / PROVENANCE, told)
        write_card(folder, base_card(plan.base), told)
        check_written(plan, folder)
        files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    return MergeReport(
        output,
        sum(files.values()),
        tuple(sorted(files)),
        plan.modules,
        plan.extras,
        tokenizer.origin,
        plan.untied,
        (*warnings, *broken_warnings(found.broken)),
        rounding,
        found.resumed,
    )


FORM = Form(lambda base: True, _check, _plan, _foretell, _write)
"""A model's folder; what is none is refused as one."""


def _opening_warnings(plan: MergePlan, folder: Path, how: How | None) -> tuple[str, ...]:
    """What `check_opens` says; of a model with the base's own tensors and quantisation it has nothing to say."""
    return () if how == "requantised" else check_opens(plan, folder)


def _tokenizer_warnings(plan: MergePlan, tokenizer: Tokenizer) -> Iterator[str]:
    """What the user should know of a merged model's tokenizer, a line each."""
    if tokenizer.left:
        yield (
            f"the adapter's folder brings {listed(map(str, tokenizer.left))} but no vocabulary, so that they are "
            "left out; put its whole tokenizer there"
        )
    embedding = next((n for n in plan.tensors if n.endswith(plan.base.input_embedding or "?")), None)
    rows = plan.tensors[embedding].shape[0] if embedding is not None else None
    if rows is not None and tokenizer.tokens > rows:
        yield (
            f"the {tokenizer.origin}'s tokenizer has {tokenizer.tokens} tokens, but {embedding} only {rows}: texts "
            "with the others fail"
        )


def _files(plan: MergePlan, tokenizer: Tokenizer) -> list[str]:
    """The names of a merged model's files, sorted."""
    others = (file.as_posix() for file in _others(plan, tokenizer))
    return sorted({*written_names(plan.base), *_TOLD, *others})


def _others(plan: MergePlan, tokenizer: Tokenizer) -> dict[Path, Path]:
    """The folder that each file beside the weights comes from."""
    carried = (file for file in plan.base.others if file.as_posix() not in _TOLD)
    base = {file: plan.base.path for file in carried if not is_tokenizer_file(file.as_posix())}
    weights = {shard.path for shard in plan.base.shards}
    return base | {file: tokenizer.folder for file in tokenizer.files if tokenizer.folder / file not in weights}


def _is_owned(plan: MergePlan, output: Path, name: str) -> bool:
    """Whether a merged model of this base may have a file of this name; a README only with a merge's section, unless
    the base brings one."""
    if name == PROVENANCE or (name == README and is_merged_card(output / README)):
        return True
    others = (file.as_posix() for file in plan.base.others)
    return is_tokenizer_file(name) or name in (*written_names(plan.base), "config.json", *others)


def _write_others(plan: MergePlan, tokenizer: Tokenizer, folder: Path) -> None:
    for relative, home in _others(plan, tokenizer).items():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if relative.as_posix() == "config.json" and plan.config is not None:
            write_json(target, plan.config)
        else:
            shutil.copyfile(home / relative, target)
