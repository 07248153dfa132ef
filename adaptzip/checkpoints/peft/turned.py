"""Experts' factors as PEFT laid them out before version 0.19, and how they are told from those of today.

Of a stacked parameter (experts, d1, d2), PEFT 0.17 and 0.18 took d1 for `in` and d2 for `out`: A is
(experts * rank, d1), B is (d2, rank * experts), and (B A)^T is added to an expert's slice. Since 0.19 that is so only
of models that stack (experts, in, out); of all others A is (experts * rank, d2) and B (d1, rank * experts), and B A is
added.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adaptzip.core.layouts import TRANSPOSED_EXPERT_TYPES
from adaptzip.errors import CheckpointError, warn

NEW_LAYOUT = "0.19.0"
"""The version of PEFT whose layout is the one of today."""

_TRANSPOSED_NAMES = re.compile(r"gpt[-_]?oss|privacy[-_]filter|\baria\b", re.IGNORECASE)
_INTO_HIDDEN = ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate", "router")
_HIDDEN_IN, _HIDDEN_OUT = ("gate_up_proj", "gate_proj", "up_proj"), ("down_proj",)

Widths = Mapping[str, tuple[int, int]]
"""(columns of A, rows of B) by path."""


@dataclass(frozen=True)
class Evidence:
    """What decides how experts' factors lie.

    Attributes:
        stacks: the widths of the experts' factors by their parameter's path.
        modules: the widths of the other modules.
        config: adapter_config.json.
        model_type: the base model's, where it is known.
    """

    stacks: Widths
    modules: Widths
    config: Mapping[str, Any]
    model_type: str | None


def is_turned(evidence: Evidence, where: object) -> bool:
    """Whether the transposes of experts' factors are their factors of today.

    Raises:
        CheckpointError: if nothing tells and both ways would fit.
    """
    old = is_old(evidence.config)
    if not evidence.stacks or old is False:
        return False
    by_shape = _turned_by_shape(evidence)
    if old is None:
        return by_shape if by_shape is not None else _of_no_version(evidence, where)
    if evidence.model_type is not None:
        return evidence.model_type not in TRANSPOSED_EXPERT_TYPES
    if by_shape is not None:
        return by_shape
    named = f"{evidence.config.get('base_model_name_or_path')} {evidence.config.get('auto_mapping')}"
    if _TRANSPOSED_NAMES.search(named):
        return False
    warn(
        f"{where}: its experts' factors lie as PEFT {evidence.config.get('peft_version')} wrote them; they are read "
        "for a base model that stores experts as (out, in), as all but gpt-oss, aria and privacy-filter do"
    )
    return True


def is_old(config: Mapping[str, Any]) -> bool | None:
    """Whether a configuration is of PEFT before 0.19; None where it does not say, as before 0.18."""
    found = re.match(r"(\d{1,6})\.(\d{1,6})(.*)", str(config.get("peft_version") or ""))
    if found is None:
        return None
    if (int(found[1]), int(found[2])) >= (0, 19):
        return False
    return None if "dev" in found[3] else True


def _of_no_version(evidence: Evidence, where: object) -> bool:
    square = next((path for path, (width, out) in evidence.stacks.items() if width == out), None)
    if square is not None:
        raise CheckpointError(
            f"{where}: the experts' factors of {square} are square, and adapter_config.json has no peft_version that "
            "says which way they lie",
            hint='add the version of PEFT that trained it, such as "peft_version": "0.18.1" or "0.19.0"',
        )
    return False


def _turned_by_shape(evidence: Evidence) -> bool | None:
    """What the widths say where they fit one way only, for models that stack (experts, out, in)."""
    said = {vote for path in evidence.stacks for vote in (_by_pair(evidence, path), _by_hidden(evidence, path))}
    said.discard(None)
    return said.pop() if len(said) == 1 else None


def _by_pair(evidence: Evidence, path: str) -> bool | None:
    """A fused gate and up projection is twice as wide as what the down projection takes."""
    folder, _, parameter = path.rpartition(".")
    down = evidence.stacks.get(f"{folder}.down_proj")
    if parameter != "gate_up_proj" or down is None:
        return None
    (width, out), (down_width, down_out) = evidence.stacks[path], down
    plain = width == down_out and out == 2 * down_width
    turned = out == down_width and width == 2 * down_out
    return turned if plain != turned else None


def _by_hidden(evidence: Evidence, path: str) -> bool | None:
    """The width of the hidden states, where other modules of the adapter tell it."""
    hidden = {w for name, (w, _) in evidence.modules.items() if name.rpartition(".")[2] in _INTO_HIDDEN}
    parameter = path.rpartition(".")[2]
    width, out = evidence.stacks[path] if parameter in _HIDDEN_IN else evidence.stacks[path][::-1]
    if len(hidden) != 1 or parameter not in (*_HIDDEN_IN, *_HIDDEN_OUT) or (width in hidden) == (out in hidden):
        return None
    return out in hidden
