"""Which modules PEFT takes for targets, and targets that choose given modules and no others."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from adaptzip.checkpoints._targets import Targets
from adaptzip.checkpoints.peft.experts import parameter_of
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import warn

_DEEP = re.compile(r"(^|\.)\d+\.")
"""A name within a list of layers."""


def left_out(adapter: Adapter, raw: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The modules of an adapter that PEFT would leave out, by a configuration or else by the one that it has."""
    targets = Targets(adapter.meta.config if raw is None else raw)
    modules = adapter.modules.items()
    return tuple(name for name, factors in modules if parameter_of(name, factors) is None and not targets.load(name))


def warn_of_strangers(modules: Mapping[str, LoraFactors], raw: Mapping[str, Any], where: object) -> None:
    """Say which modules have factors in the file that PEFT would leave out, as the configuration does not choose them.

    Experts are chosen by target_parameters. A configuration without target_modules leaves the choice to PEFT, and one
    with ensure_weight_tying adds what is tied to an embedding that it names, which lies outside the layers.
    """
    if not raw.get("target_modules"):
        return
    targets, tied = Targets(raw), bool(raw.get("ensure_weight_tying"))
    left_out = [
        name
        for name, factors in modules.items()
        if not (factors.layout.startswith("expert") or targets.load(name) or (tied and not _DEEP.search(name)))
    ]
    if left_out:
        warn(
            f"{where}: {len(left_out)} of {len(modules)} modules, such as {left_out[0]}, are not among the targets of "
            "the configuration: PEFT would leave their factors out, and here they count"
        )


def exact_targets(modules: Collection[str]) -> list[str] | str:
    """target_modules for `modules` alone: their whole names, or a pattern where PEFT would let a name fit more.

    PEFT compares names with the ends of paths. One without a dot could fit others: "0" of a Sequential the blocks of a
    ModuleList, "proj_out" a layer within each block. So could a name that is the end of a block's.
    """
    names = sorted(modules)
    blocks = {name[:dot] for name in names for dot in _dots(name)}
    ends = {block[dot + 1 :] for block in blocks for dot in _dots(block)} | (blocks - set(names))
    if any(name in ends or "." not in name or not re.search(r"[^\d.]", name) for name in names):
        return "|".join(map(re.escape, names))
    return names


def _dots(name: str) -> list[int]:
    return [position for position, character in enumerate(name) if character == "."]
