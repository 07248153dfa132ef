"""PEFT's adapter_config.json: the scale of each module, and the variants that are no plain low-rank update."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from adaptzip.errors import CheckpointError

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class PeftConfig:
    """The fields of adapter_config.json that decide what the tensors mean.

    Attributes:
        r: default rank.
        alpha: default lora_alpha.
        rslora: whether the scale is alpha / sqrt(rank) instead of alpha / rank.
        rank_pattern: ranks by module-name pattern, in file order: the first pattern that fits counts.
        alpha_pattern: alphas likewise.
        fan_in_fan_out: whether linear base weights lie as (in, out).
        raw: the whole file.
    """

    r: int
    alpha: float
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    fan_in_fan_out: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict)

    def rank(self, module: str) -> int:
        """The rank that PEFT gives `module`."""
        return first_match(self.rank_pattern, module, self.r)

    def scaling(self, module: str, rank: int | None = None) -> float:
        """What PEFT multiplies B @ A of `module` by; `rank` stands for the configured one where given."""
        rank = self.rank(module) if rank is None else rank
        alpha = first_match(self.alpha_pattern, module, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def first_match(patterns: Mapping[str, Number], module: str, default: Number) -> Number:
    """The value of the first pattern that fits the end of `module` at a dot, as PEFT looks them up."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def parse_config(raw: Mapping[str, Any], where: object) -> PeftConfig:
    """Parse a LoRA's adapter_config.json.

    Raises:
        CheckpointError: if a field that the scale depends on is missing or has the wrong type.
    """
    r, alpha = raw.get("r", 8), raw.get("lora_alpha", 8)
    if type(r) is not int or r < 1:
        raise CheckpointError(f"{where}: r is {r!r}, expected a whole number of at least 1")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise CheckpointError(f"{where}: lora_alpha is {alpha!r}, expected a number")
    return PeftConfig(
        r=r,
        alpha=alpha,
        rslora=bool(raw.get("use_rslora")),
        rank_pattern=_pattern(raw, "rank_pattern", where),
        alpha_pattern=_pattern(raw, "alpha_pattern", where),
        fan_in_fan_out=bool(raw.get("fan_in_fan_out")),
        raw=raw,
    )


def _pattern(raw: Mapping[str, Any], name: str, where: object) -> dict[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in value.values()):
        raise CheckpointError(f"{where}: {name} is {value!r}, expected a table of numbers by module-name pattern")
    for pattern in value:
        try:
            re.compile(pattern)
        except re.error as error:
            raise CheckpointError(f"{where}: {name} has the pattern {pattern!r}, which is no regular expression") from error
    return value
