"""The models that a base model and a merged one consist of: one, or several where they are pipelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adaptzip.core.adapter import Adapter
from adaptzip.errors import UsageError
from adaptzip.models.folder import BaseModel
from adaptzip.models.pipelines import component_folders, is_pipeline
from adaptzip.models.single import is_single_file, open_file
from adaptzip.reports.merged.report import CheckReport, TensorCheck, Verdict
from adaptzip.reports.merged.summary import explain
from adaptzip.restoring.merging.image.planning import alone, naming_families, plan_file, plan_pipeline
from adaptzip.restoring.merging.plan import MergePlan, plan_merge, plan_nothing

_WORST_FIRST: tuple[Verdict, ...] = ("no", "close")
_KINDS = {"file": "one file", "pipeline": "a pipeline", "folder": "a model's folder"}


@dataclass(frozen=True, eq=False)
class Models:
    """A base model and what should be the same with an adapter merged.

    Attributes:
        base: the base's path.
        merged: the merged model by component; "" for a model that is no pipeline.
    """

    base: Path
    merged: Mapping[str, BaseModel]

    def plans(
        self, adapter: Adapter, scale: float, *, untie: bool, labels: Sequence[str] | None = None
    ) -> dict[str, MergePlan]:
        """What merging makes of each component.

        Raises:
            BaseModelError: if the adapter does not fit the base.
            CheckpointError, RefusedError: as `merge`.
        """
        if is_single_file(self.base):
            return {"": plan_file(adapter, open_file(self.base, dequantised=True), scale)}
        if not is_pipeline(self.base):
            model = BaseModel.open(self.base, quantised="dequantised")
            with naming_families(adapter, model):
                return {"": plan_merge(alone(adapter, model), model, scale, untie=untie, labels=labels)}
        parts = plan_pipeline(adapter, self.base, scale).parts
        others = component_folders(self.base).keys() - parts.keys()
        return {**parts, **{name: plan_nothing(BaseModel.open(self.base / name)) for name in sorted(others)}}


def open_models(base: str | Path, merged: str | Path) -> Models:
    """Open both.

    Raises:
        BaseModelError: if one cannot be read.
        RefusedError: if one is quantised.
        UsageError: if one is a file, a pipeline or a model's folder and the other is not.
    """
    base, merged = Path(base), Path(merged)
    forms = _form(base), _form(merged)
    if forms[0] != forms[1] and merged.exists() and base.exists():
        raise UsageError(
            f"{merged}: is {_KINDS[forms[1]]}, and the base model {base} is {_KINDS[forms[0]]}",
            hint="give both in the same form",
        )
    if forms[0] == "file":
        return Models(base, {"": open_file(merged)})
    if forms[0] == "pipeline":
        return Models(base, {name: BaseModel.open(merged / name) for name in component_folders(base)})
    return Models(base, {"": BaseModel.open(merged)})


def _form(path: Path) -> str:
    return "file" if is_single_file(path) else "pipeline" if is_pipeline(path) else "folder"


def joined(merged: Path, reports: Mapping[str, CheckReport]) -> CheckReport:
    """The report on a pipeline: its components' reports, whose tensors have the component before their names."""
    if "" in reports:
        return reports[""]
    every = list(reports.values())
    rows = tuple(_named(name, row) for name, report in reports.items() for row in report.tensors)
    verdict: Verdict = next((v for v in _WORST_FIRST if any(r.verdict == v for r in every)), "exact")
    rules = {(r.rule, r.meaning) for r in every if any(row.kind != "unchanged" for row in r.tensors)}
    rule, meaning = next(iter(rules)) if len(rules) == 1 and verdict == "exact" else (None, "")
    unchanged = sum(report.unchanged for report in every)
    return CheckReport(
        merged,
        verdict,
        rule,
        meaning,
        every[0].max_ulps,
        rows,
        unchanged,
        tuple(f"{name}.{tensor}" for name, report in reports.items() for tensor in report.left_out),
        tuple(f"{name}/{line}" for name, report in reports.items() for line in report.config),
        tuple(f"{name}: {line}" for name, report in reports.items() for line in report.notes),
        explain(rows, unchanged) if verdict == "no" else "",
    )


def _named(component: str, row: TensorCheck) -> TensorCheck:
    return replace(row, name=f"{component}.{row.name}")
