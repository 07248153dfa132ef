"""Merging an adapter into a base model in GGUF."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from adaptzip.checkpoints._gguf.bases import SUFFIX
from adaptzip.core.adapter import Adapter
from adaptzip.errors import UsageError
from adaptzip.files.atomic import atomic_file, check_output
from adaptzip.files.inputs import check_apart
from adaptzip.restoring.merging.gguf.base import open_base
from adaptzip.restoring.merging.gguf.layout import head, lay_out
from adaptzip.restoring.merging.gguf.plan import GgufPlan, plan_merge
from adaptzip.restoring.merging.gguf.writing import write_tensors
from adaptzip.restoring.merging.plan import listed
from adaptzip.restoring.merging.provenance import FORMAT, MADE_BY, Origins, fingerprints, is_repository, told_adapters
from adaptzip.restoring.merging.quantised_bases import How
from adaptzip.restoring.merging.report import MergeReport
from adaptzip.restoring.merging.rounding import Ledger, Rounding

_LONGEST = 25
"""Characters of a float."""


def merge_gguf(
    adapter: Adapter,
    base: Path,
    output: Path,
    how: How | None,
    options: dict[str, Any],
    origins: Origins,
    *,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> MergeReport:
    """Write a GGUF file with the adapter's updates added to the weights of another.

    What the base says of itself is kept as it is, but for `general.file_type` where quantised tensors become bfloat16,
    and what it says of being in several files, which become one. The key `adaptzip.merge` says what was merged.

    Args:
        base: the file, the first of several.
        output: the file to write.
        how: what becomes of quantised weights.
        options: `scale` of `plan_merge`, the `device`, and others that are false.
        origins: what the adapter was made of.

    Raises:
        BaseModelError, RefusedError, UsageError: as `open_base` and `plan_merge`.
        CheckFailedError: if a changed weight holds NaN or infinity.
        OutputError: if `output` exists without `force`, or cannot be written.
    """
    plan = _plan(adapter, base, output, how, options)
    told = _told(plan, origins, adapter.meta.base_model, options)
    layout = lay_out(plan, _room(plan, told))
    with atomic_file(output, force) as handle:
        handle.truncate(layout.size)
        device = torch.device(options["device"])
        ledger = None if how is None else Ledger()
        broken = write_tensors(plan, layout, handle.fileno(), ledger, device, progress)
        rounding = None if how is None or ledger is None else ledger.rounding(how)
        told |= {} if rounding is None else {"rounding": rounding.as_dict()}
        handle.write(head(plan, layout, _json(told)))
    return MergeReport(
        output,
        layout.size,
        (output.name,),
        plan.modules,
        0,
        tokenizer(plan),
        warnings=(*plan.warnings, *_broken(broken)),
        rounding=rounding,
    )


def planned(
    adapter: Adapter, base: Path, output: Path, how: How | None, options: dict[str, Any], origins: Origins
) -> dict[str, Any]:
    """What `merge_gguf` would write, as JSON values; it raises the same."""
    plan = _plan(adapter, base, output, how, options)
    return {
        "bytes": lay_out(plan, _room(plan, _told(plan, origins, adapter.meta.base_model, options))).size,
        "files": [output.name],
        "modules": plan.modules,
        "extras": 0,
        "tokenizer": tokenizer(plan),
        "untied": False,
        "warnings": list(plan.warnings),
        "rounding": None,
    }


def check_file(output: Path, force: bool, options: dict[str, Any]) -> None:
    """Refuse an output, and options that are for folders, before any work is done.

    Raises:
        OutputError: if the file exists without `force`, or is none.
        UsageError: if its name does not end in .gguf, or an option is for folders.
    """
    if output.suffix != SUFFIX:
        raise UsageError(f"{output}: a base in GGUF is merged into one file", hint=f"name it with -o NAME{SUFFIX}")
    for option in ("safe_merge", "untie"):
        if options.get(option):
            raise UsageError(
                f"--{option.replace('_', '-')} is for bases in folders, and not in GGUF", hint="leave it out"
            )
    check_output(output, force)


def _plan(adapter: Adapter, base: Path, output: Path, how: How | None, options: dict[str, Any]) -> GgufPlan:
    opened = open_base(base)
    check_apart(output, base=list(opened.files))
    return plan_merge(adapter, opened, how, options["scale"])


def tokenizer(plan: GgufPlan) -> str | None:
    """Whose tokenizer the file carries."""
    return "base" if any(key.startswith("tokenizer.") for key in plan.base.header.values) else None


def _broken(names: tuple[str, ...]) -> list[str]:
    if not names:
        return []
    return [f"NaN or infinity in {listed(names)}: the base holds it and the adapter does not change it"]


def _told(plan: GgufPlan, origins: Origins, named: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """What the file says of the merge, as adaptzip_merge.json does of a folder."""
    return {
        "format": FORMAT,
        "made_by": MADE_BY,
        "base": {
            "name": plan.base.path.name,
            "repository": named if is_repository(named) else None,
            "files": fingerprints(plan.base.files),
        },
        "adapters": told_adapters(origins),
        "method": origins.method,
        "options": options,
        "modules": plan.modules,
        "extras": 0,
    }


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
