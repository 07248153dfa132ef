"""The README of a merged model: the base's own, with what was merged into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptzip.files.regular import read_regular
from adaptzip.models.folder import BaseModel
from adaptzip.restoring.merging.provenance import told_command
from adaptzip.restoring.merging.rounding import Rounding
from adaptzip.restoring.model_card import NAME, is_ours, with_base, with_section

_MARK = "<!-- adaptzip: merge -->"
_ROUNDING = {
    False: "the sum of weight and update once, as PEFT's `merge_and_unload` does",
    True: "the update to the weight's dtype, then the sum, as PEFT's `safe_merge` does",
}


def base_card(base: BaseModel) -> str | None:
    """The text of the base's README, None where it has none; bytes that are no UTF-8 come through unchanged."""
    if Path(NAME) not in base.others:
        return None
    return read_card(base.path / NAME)


def read_card(readme: Path) -> str:
    """The text of a README, whose bytes that are no UTF-8 come through unchanged."""
    return read_regular(readme).decode("utf-8", "surrogateescape")


def write_card(folder: Path, card: str | None, told: dict[str, Any]) -> None:
    """Write a merged model's README.

    Args:
        folder: where to.
        card: the base's README.
        told: the merge's provenance.
    """
    text = "# Merged model\n" if card is None else card
    text = with_section(with_base(text, told["base"]["repository"], "merge"), _MARK, _section(told))
    (folder / NAME).write_bytes(text.encode("utf-8", "surrogateescape"))


def is_merged_card(readme: Path) -> bool:
    """Whether a README in an output folder is one that a merge wrote."""
    return is_ours(readme, _MARK)


def _section(told: dict[str, Any]) -> str:
    base, options = told["base"], told["options"]
    revision = f", commit `{base['revision']}`" if base["revision"] else ""
    rows = [("base model", f"`{base['repository'] or base['name']}`{revision}")]
    rounding = told.get("rounding")
    rows += [("adapter", _adapter(adapter, many=len(told["adapters"]) > 1)) for adapter in told["adapters"]]
    rows += [("method", f"`{told['method']}`")] if told["method"] else []
    rows += [
        ("scale", f"{options['scale']:g}"),
        ("rounded", _ROUNDING[options["safe_merge"]] if rounding is None else Rounding(**rounding).told()),
        *([("tied embeddings", "each with its own updates")] if options["untie"] else []),
        ("merged", f"{told['modules']} modules, {told['extras']} other tensors"),
        ("bytes of weights", f"{sum(file['bytes'] for file in told['files'].values()):,}"),
        ("made by", told["made_by"]),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return (
        f"## Merged\n\nThis is the base model with an adapter added to its weights.\n\n| | |\n|---|---|\n{table}\n\n"
        f"{_check(told)}\n"
    )


def _check(told: dict[str, Any]) -> str:
    """How it can be seen whether all this is so."""
    if told["options"].get("quantised") == "requantised":
        return "Weights that are quantised again cannot be checked; the same merge makes the same files."
    command = told_command(told) or "--base BASE --adapter ADAPTER"
    return f"`adaptzip check . {command}` says tensor by tensor whether that is so."


def _adapter(adapter: dict[str, Any], *, many: bool) -> str:
    said = f"`{adapter['name']}`" if adapter["name"] else "made in memory"
    said += f", times {adapter['weight']:g}" if many else ""
    if adapter["relative_error"] is None:
        return said
    return f"{said}, compressed with `{adapter['method']}`, relative error {adapter['relative_error']:.4g}"
