"""Merging an adapter into a base model in GGUF."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptzip.checkpoints._gguf.bases import SUFFIX, is_gguf
from adaptzip.core.adapter import Adapter
from adaptzip.errors import UsageError
from adaptzip.files.atomic import atomic_file, check_output
from adaptzip.files.inputs import check_apart
from adaptzip.restoring.merging.gguf.base import open_base
from adaptzip.restoring.merging.gguf.layout import head, lay_out
from adaptzip.restoring.merging.gguf.plan import GgufPlan, plan_merge
from adaptzip.restoring.merging.gguf.writing import write_tensors
from adaptzip.restoring.merging.provenance import fingerprints, provenance, told_place
from adaptzip.restoring.merging.report import MergeReport, broken_warnings
from adaptzip.restoring.merging.rounding import Ledger, Rounding
from adaptzip.restoring.merging.writing import Form, Writing

_LONGEST = 25
"""Characters of a float."""


@dataclass(frozen=True, eq=False)
class FilePlan:
    """What will be written: the tensors, and what the file says of the merge but for what is measured."""

    tensors: GgufPlan
    told: dict[str, Any]


def _check(base: Path, output: Path, asked: Writing) -> None:
    """Raises: UsageError: if its name does not end in .gguf, or an option is for folders."""
    if output.suffix != SUFFIX:
        raise UsageError(
            f"{output}: a base in GGUF is merged into one file", hint=f"name it with `output='NAME{SUFFIX}'`"
        )
    for option, given in (("`safe_merge=True`", asked.safe), ("`untie=True`", asked.untie)):
        if given:
            raise UsageError(f"{option} is for bases in folders, and not in GGUF", hint="leave it out")
    check_output(output, asked.force)


def _plan(adapter: Adapter, base: Path, output: Path, writing: Writing) -> FilePlan:
    opened = open_base(base)
    check_apart(output, base=list(opened.files))
    plan = plan_merge(adapter, opened, writing.how, writing.scale)
    told = {**told_place(opened.path, writing.base_model), "files": fingerprints(opened.files)}
    return FilePlan(plan, provenance(told, plan, writing.origins, writing.options))


def _foretell(plan: FilePlan, output: Path) -> MergeReport:
    tensors = plan.tensors
    size = lay_out(tensors, _room(tensors, plan.told)).size
    return MergeReport(
        output, size, (output.name,), tensors.modules, tensors.extras, tokenizer(tensors), warnings=tensors.warnings
    )


def _write(plan: FilePlan, output: Path, writing: Writing) -> MergeReport:
    """Write the file.

    What the base says of itself is kept as it is, but for `general.file_type` where quantised tensors become bfloat16,
    and what it says of being in several files, which become one. The key `adaptzip.merge` says what was merged.
    """
    tensors, how = plan.tensors, writing.how
    layout = lay_out(tensors, _room(tensors, plan.told))
    ledger = None if how is None else Ledger()
    with atomic_file(output, writing.force) as handle:
        handle.truncate(layout.size)
        broken = write_tensors(tensors, layout, handle.fileno(), ledger, writing.device, writing.progress)
        rounding = None if how is None or ledger is None else ledger.rounding(how)
        told = plan.told if rounding is None else plan.told | {"rounding": rounding.as_dict()}
        handle.write(head(tensors, layout, _json(told)))
    return MergeReport(
        output,
        layout.size,
        (output.name,),
        tensors.modules,
        tensors.extras,
        tokenizer(tensors),
        warnings=(*tensors.warnings, *broken_warnings(broken)),
        rounding=rounding,
    )


FORM = Form(is_gguf, _check, _plan, _foretell, _write)
"""A file in GGUF."""


def tokenizer(plan: GgufPlan) -> str | None:
    """Whose tokenizer the file carries."""
    return "base" if any(key.startswith("tokenizer.") for key in plan.base.header.values) else None


def _room(plan: GgufPlan, told: dict[str, Any]) -> int:
    """The bytes to keep for what the file says, before it is known how much of the update came through."""
    longest = max(
        (output.module or "" for output in plan.outputs), key=lambda name: len(_json(name).encode()), default=""
    )
    number: Any = "0" * _LONGEST
    filled = Rounding("requantised", number, longest, number).as_dict()
    return len(_json(told | {"rounding": filled}).encode())


def _json(value: object) -> str:
    return json.dumps(value)
