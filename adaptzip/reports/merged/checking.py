"""Checking a merged model against its base and its adapters, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from adaptzip.checkpoints._gguf.bases import is_gguf
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.combinations import Combination
from adaptzip.core.compressed import Compressed
from adaptzip.core.task_arithmetic import Majority
from adaptzip.core.workers import on_one_core, parallel_map
from adaptzip.errors import UsageError
from adaptzip.models.folder import BaseModel
from adaptzip.reports.merged.configs import config_differences
from adaptzip.reports.merged.forms import joined, open_models
from adaptzip.reports.merged.places import find_places, is_buffer, unclaimed
from adaptzip.reports.merged.report import CheckReport, Kind, TensorCheck, Verdict
from adaptzip.reports.merged.rules import rules_for
from adaptzip.reports.merged.summary import explain
from adaptzip.reports.merged.tensors import Subject, check_tensor, one_rule, probe
from adaptzip.restoring.combining import Source, combine
from adaptzip.restoring.merging.edits import Edit
from adaptzip.restoring.merging.labels import label_names
from adaptzip.restoring.merging.plan import MergePlan, Output, listed
from adaptzip.restoring.merging.provenance import NAME as PROVENANCE
from adaptzip.restoring.merging.provenance import load_provenance, weights_of
from adaptzip.restoring.merging.tokenizers import adapter_folder
from adaptzip.restoring.reading import adapter_from

_WORST_FIRST: tuple[Verdict, ...] = ("no", "close")
MAX_ULPS = 4.0
"""Units of the last place that another order of sums makes, or other hardware."""


@public
def check(
    merged: str | Path,
    base: str | Path,
    adapters: Source | Sequence[Source],
    weights: Sequence[float] | None = None,
    *,
    scale: float = 1.0,
    untie: bool = False,
    max_ulps: float = MAX_ULPS,
    method: Combination = "cat",
    rank: int | None = None,
    density: float | None = None,
    majority: Majority = "total",
    seed: int | None = 0,
    alpha: float | None = None,
    config: str | Path | None = None,
    dialect: str | None = None,
    basis: str | Path | Basis | None = None,
) -> CheckReport:
    """Say whether a merged model is a base model plus an adapter.

    Every tensor is held against what merging makes of the base's, under each rule by which programs round: the sum
    once (PEFT's default, and `merge`'s); the update first (safe_merge); the factors, the update and the sum (PEFT
    with autocast_adapter_dtype off). Where none is met bit for bit, the difference is told in units of the last place
    of the stored dtype, and where it is more than another order of sums explains, what explains it. Files, their
    names and, where transformers 4 and 5 differ, those of the tensors may be others than the base's.

    Args:
        merged: the folder of the merged model, or of a pipeline, or its safetensors file.
        base: the base model, in the same form.
        adapters: the adapter that it should hold, or several.
        weights: what each one's update was multiplied by; None for 1.
        scale: what all updates were multiplied by; -1 for a merge with --subtract.
        untie: tied embeddings have each their own updates, as `merge` makes them with `untie`.
        max_ulps: the most units of the last place that a number may be off; 0 for bit for bit alone.
        method, rank, density, majority, seed: how several adapters became one, as for `combine`.
        alpha, config, dialect, basis: how to read the adapters, as for `read`.

    Raises:
        BaseModelError: if a model cannot be read, or the adapter does not fit the base.
        CheckpointError, FormatError: if an adapter cannot be read.
        RefusedError: if the merged model is quantised or its base in a way that is not read, or an adapter is
            no low-rank update.
        UsageError: if the numbers of adapters and weights differ.

    Example:
        >>> _ = adaptzip.merge("my-adapter", "base-model", "merged")
        >>> report = adaptzip.check("merged", "base-model", "my-adapter")
        >>> report.verdict, report.rule
        ('exact', 'default')
        >>> adaptzip.check("merged", "base-model", "my-adapter", scale=0.5).explanation
        'the adapter is merged twice'
    """
    _refuse_gguf(merged, base)
    sources = [adapters] if isinstance(adapters, str | Path | Adapter | Compressed) else [*adapters]
    given = [1.0] * len(sources) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(sources) or not sources:
        raise UsageError(f"{len(sources)} adapters have {len(given)} weights", hint="give one weight for each")
    how: dict[str, Any] = {"method": method, "rank": rank, "density": density, "majority": majority, "seed": seed}
    models = open_models(base, merged)
    reading: dict[str, Any] = {"alpha": alpha, "config": config, "dialect": dialect, "base": base, "basis": basis}
    parts = [adapter_from(source, **reading) for source in sources]
    in_turn: list[Mapping[str, MergePlan]] = []
    labels = _labels(sources, parts)
    if len(parts) == 1:
        plans = models.plans(parts[0], scale * given[0], untie=untie, labels=labels)
    else:
        plans = models.plans(combine(parts, given, **how), scale, untie=untie, labels=labels)
        if method == "cat":
            in_turn = [models.plans(a, scale * w, untie=untie) for a, w in zip(parts, given, strict=True)]
    reports = {
        name: _report(plan, models.merged[name], [turn[name] for turn in in_turn], max_ulps)
        for name, plan in plans.items()
    }
    return joined(Path(merged), reports)


def _refuse_gguf(*models: str | Path) -> None:
    for path in models:
        if is_gguf(path):
            raise UsageError(
                f"{path}: models in folders can be checked, and not those in GGUF",
                hint="merge again from the same base and compare the files: the same merge makes the same bytes",
            )


def _labels(sources: Sequence[Source], adapters: Sequence[Adapter]) -> tuple[str, ...] | None:
    """The first names of labels that an adapter brings."""
    for source, adapter in zip(sources, adapters, strict=True):
        found = label_names(adapter, adapter_folder(Path(source)) if isinstance(source, str | Path) else None)
        if found is not None:
            return found
    return None


@on_one_core()
def _report(plan: MergePlan, model: BaseModel, in_turn: Sequence[MergePlan], max_ulps: float) -> CheckReport:
    outputs = [output for shard in plan.outputs for output in shard]
    places = find_places(model, plan.tensors)
    one_after_another = _edits_in_turn(in_turn)
    subjects = [
        Subject(plan.base, model, output, places[output.stored.name], one_after_another.get(output.stored.name, ()))
        for output in outputs
        if output.stored.name in places
    ]
    order = probe(subjects)
    rows = list(parallel_map(partial(check_tensor, order=order, max_ulps=max_ulps), subjects))
    absent = [output for output in outputs if output.stored.name not in places]
    left = [output for output in absent if _may_be_left_out(plan, output)]
    rows += [_missing(output) for output in absent if output not in left]
    rows += [_unexpected(name) for name in unclaimed(model, places)]
    kept = [row for row in rows if row.kind != "unchanged" or row.verdict == "no"]
    verdict: Verdict = next((v for v in _WORST_FIRST if any(row.verdict == v for row in rows)), "exact")
    rule = one_rule(subjects, kept) if verdict == "exact" else None
    return CheckReport(
        model.path,
        verdict,
        rule,
        _meanings(subjects).get(rule or "", ""),
        max_ulps,
        tuple(kept),
        len(rows) - len(kept),
        tuple(output.stored.name for output in left),
        tuple(config_differences(plan.base.config if plan.config is None else plan.config, model.config)),
        tuple(_notes(plan, model, subjects)),
        explain(kept, len(rows) - len(kept)) if verdict == "no" else "",
    )


def _edits_in_turn(plans: Sequence[MergePlan]) -> dict[str, tuple[Edit, ...]]:
    """The edits of several adapters for each tensor, one adapter after another."""
    found: dict[str, tuple[Edit, ...]] = {}
    for output in chain.from_iterable(chain.from_iterable(plan.outputs) for plan in plans):
        found[output.stored.name] = (*found.get(output.stored.name, ()), *output.edits)
    return found


def _meanings(subjects: Sequence[Subject]) -> Mapping[str, str]:
    kinds = {(s.output.stored.dtype, s.dtype, bool(s.in_turn), s.decoded) for s in subjects}
    found = (rules_for(one, other, several=more, decoded=read) for one, other, more, read in kinds)
    return {rule.name: rule.meaning for rules in found for rule in rules}


def _may_be_left_out(plan: MergePlan, output: Output) -> bool:
    """What the model's code makes itself; and where the class for a task took another's place, that one's own head."""
    name = output.stored.name
    if output.edits:
        return False
    other_class = plan.config is not None and plan.config.get("architectures") != plan.base.config.get("architectures")
    in_layers = any(part.isdigit() for part in name.split("."))
    return is_buffer(name) or (other_class and not in_layers and name != plan.base.input_embedding)


def _missing(output: Output) -> TensorCheck:
    kind: Kind = "extra" if output.edits else "unchanged"
    return TensorCheck(output.stored.name, kind, "no", reason="missing", why="is not in the merged model")


def _unexpected(name: str) -> TensorCheck:
    return TensorCheck(name, "unchanged", "no", reason="unexpected", why="is in neither base nor adapter")


def _told_weights(told: Mapping[str, Any]) -> object:
    base = told.get("base")
    return base.get("files") if isinstance(base, Mapping) else None


def _notes(plan: MergePlan, model: BaseModel, subjects: Sequence[Subject]) -> Iterator[str]:
    told = load_provenance(model.path)
    if told is not None and weights_of(plan.base) != _told_weights(told):
        yield f"{PROVENANCE} names a base of other weights than {plan.base.path}"
    other = [s for s in subjects if s.dtype != s.output.stored.dtype]
    if other:
        first = other[0].output.stored
        one, two = (str(dtype).removeprefix("torch.") for dtype in (first.dtype, other[0].dtype))
        yield f"{len(other)} tensors such as {first.name} are {two}, the base's {one}: compared in {two}"
    renamed = [s for s in subjects if s.output.stored.name not in s.place.tensors]
    if renamed:
        yield (
            f"{len(renamed)} tensors have other names than the base's: "
            f"{renamed[0].output.stored.name} is {listed(renamed[0].place.tensors)}"
        )
    if len(model.shards) != len(plan.base.shards):
        yield f"the weights lie in {len(model.shards)} files, the base's in {len(plan.base.shards)}"
