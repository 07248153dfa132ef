"""The rules by which programs round a merged weight, each of which gives other last bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adaptzip.restoring.merging.edits import BiasUpdate, Edit, Update, WithinRows


@dataclass(frozen=True)
class Rule:
    """How a merged weight is rounded.

    Attributes:
        name: what the report calls it.
        meaning: the same in words.
        safe: the update is rounded to the weight's dtype before it is added.
        cast: the factors are rounded to the weight's dtype before they are multiplied.
        in_turn: several adapters are merged one after another, instead of their sum.
        loaded: the base is rounded to the merged model's dtype before the merge, not the result after it.
    """

    name: str
    meaning: str
    safe: bool = False
    cast: bool = False
    in_turn: bool = False
    loaded: bool = False

    def expected(self, weight: Tensor, edits: Sequence[Edit], dtype: torch.dtype) -> Tensor:
        """What the rule makes of a base weight, which may be changed in place, in the merged model's dtype."""
        weight = weight.to(dtype) if self.loaded else weight
        for edit in edits:
            weight = (_cast(edit, weight.dtype) if self.cast else edit).apply(weight, self.safe)
        return weight.to(dtype)


DEFAULT = Rule("default", "the sum rounded once, as PEFT's merge_and_unload")
_SAFE = Rule("safe", "the update rounded first, then the sum, as with safe_merge", safe=True)
_CAST = Rule(
    "cast",
    "the factors rounded to the base's dtype, their product too, then the sum, as PEFT without autocast_adapter_dtype",
    safe=True,
    cast=True,
)
_ROUNDED = "the base dequantised and rounded to the merged model's dtype, then: "


def rules_for(dtype: torch.dtype, found: torch.dtype, *, several: bool, decoded: bool = False) -> tuple[Rule, ...]:
    """The rules that may tell different numbers apart, the usual one first.

    Args:
        dtype: the base's.
        found: the merged model's.
        several: whether several adapters are merged.
        decoded: whether the base is quantised, and its weights are read as float32.
    """
    rules = [DEFAULT]
    if {dtype, found} & {torch.bfloat16, torch.float16}:
        rules += [_SAFE, _CAST]
    if several:
        rules += [
            replace(
                rule, name=f"{rule.name}, in turn", meaning=f"one adapter after another: {rule.meaning}", in_turn=True
            )
            for rule in rules
        ]
    if decoded:
        first = [replace(r, name=f"{r.name}, rounded base", meaning=_ROUNDED + r.meaning, loaded=True) for r in rules]
        return (*(rule for rule in rules if not rule.safe), *first)
    if dtype == found:
        return tuple(rules)
    to = str(found).removeprefix("torch.")
    after = [replace(r, name=f"{r.name}, then {to}", meaning=f"{r.meaning}; then rounded to {to}") for r in rules]
    before = [
        replace(r, name=f"{r.name}, in {to}", meaning=f"the base rounded to {to}; {r.meaning}", loaded=True)
        for r in rules
    ]
    return (*after, *before)


def _cast(edit: Edit, dtype: torch.dtype) -> Edit:
    if isinstance(edit, Update):
        magnitude = edit.factors.magnitude
        factors = replace(
            edit.factors,
            A=edit.factors.A.to(dtype),
            B=edit.factors.B.to(dtype),
            magnitude=None if magnitude is None else magnitude.to(dtype),
        )
        return replace(edit, factors=factors)
    if isinstance(edit, WithinRows):
        return replace(edit, edit=_cast(edit.edit, dtype))
    if isinstance(edit, BiasUpdate):
        return BiasUpdate(edit.bias.to(dtype) * edit.scaling, 1.0)
    return edit
