"""PEFT's adapter_config.json: the rank and scale of each module, and which modules it targets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from adaptzip.checkpoints._pattern_tables import FORM, PatternTable
from adaptzip.checkpoints._plain_names import plain_name
from adaptzip.checkpoints._targets import LAYERS_FORM, SAVED_FORM
from adaptzip.core.patterns.matching import is_pattern
from adaptzip.errors import CheckpointError, RefusedError, naming

CONFIG_NAME = "adapter_config.json"
WEIGHT_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
"""What PEFT's methods call their weights; the first form is the one that is written."""

_FORMS = {"rank_pattern": FORM, "alpha_pattern": FORM, "layers_pattern": LAYERS_FORM, "modules_to_save": SAVED_FORM}
"""What PEFT makes of a pattern before it uses it, by field."""
_SHOWN = 80
LARGEST = 1e30
DIFFERENT = "the weights and the configuration belong to different adapters"
"""The hint where one says what the other does not."""
ONLY = (
    *("lora_only", "delora_only", "gralora_only", "tinylora_only", "unilora_only"),
    *("vblora_only", "vera_only", "MiSS_only"),
)
"""What PEFT's methods call it where only the biases of targets are trained."""
_REPAIR = "repair adapter_config.json: it must say what the adapter was trained with"


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
    rank_pattern: PatternTable[int] = field(default_factory=lambda: PatternTable[int]({}))
    alpha_pattern: PatternTable[float] = field(default_factory=lambda: PatternTable[float]({}))
    fan_in_fan_out: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict)

    def rank(self, module: str) -> int:
        """The rank that PEFT gives `module`."""
        return self.rank_pattern.first(module, self.r)

    def scaling(self, module: str) -> float:
        """What PEFT multiplies B @ A of `module` by."""
        rank, alpha = self.rank(module), self.alpha_pattern.first(module, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def anchored(module: str) -> str:
    """The pattern that fits `module` and no other."""
    return "^" + re.escape(module)


def parse_config(raw: Mapping[str, Any], where: object) -> PeftConfig:
    """Parse a LoRA's adapter_config.json; fields that it lacks have PEFT's defaults.

    Raises:
        CheckpointError: if a field that the meaning of the tensors depends on has a value of the wrong kind.
    """
    for name, (fits, expected) in _KINDS.items():
        if raw.get(name) is not None and not fits(raw[name]):
            raise CheckpointError(f"{where}: {name} is {shown(raw[name])}, expected {expected}", hint=_REPAIR)
    for name in ("target_modules", "exclude_modules"):
        if isinstance(raw.get(name), str):
            _check_pattern(name, raw[name], where)
    for name in ("layers_pattern", "modules_to_save"):
        patterns = [raw[name]] if isinstance(raw.get(name), str) else raw.get(name) or ()
        for pattern in patterns:
            _check_pattern(name, pattern, where)
    return PeftConfig(
        r=_check("r", raw.get("r", 8), where, int),
        alpha=_check("lora_alpha", raw.get("lora_alpha", 8), where, float),
        rslora=bool(raw.get("use_rslora")),
        rank_pattern=PatternTable[int](_pattern(raw, "rank_pattern", where, int)),
        alpha_pattern=PatternTable[float](_pattern(raw, "alpha_pattern", where, float)),
        fan_in_fan_out=bool(raw.get("fan_in_fan_out")),
        raw=raw,
    )


def _check(name: str, value: Any, where: object, kind: type) -> Any:
    if kind is int:
        return whole(name, value, where)
    if not ((_whole(value) or isinstance(value, float)) and abs(value) < LARGEST):
        raise CheckpointError(f"{where}: {name} is {shown(value)}, expected a number below {LARGEST:g}", hint=_REPAIR)
    return value


def whole(name: str, value: Any, where: object, least: int = 1) -> int:
    """The value of a field that is a whole number.

    Raises:
        CheckpointError: if it is anything else, or below `least`.
    """
    if not (_whole(value) and least <= value < 2**31):
        raise CheckpointError(
            f"{where}: {name} is {shown(value)}, expected a whole number of at least {least}", hint=_REPAIR
        )
    return int(value)


def _check_pattern(name: str, pattern: str, where: object) -> None:
    """Refuse what PEFT cannot compile; some patterns are right alone and wrong where PEFT puts them."""
    # Names need no trying, of which an adapter may have one for every module.
    if plain_name(pattern) is not None:
        return
    form = _FORMS.get(name, "{}")
    with naming(f"{where}: {name}", RefusedError):
        right = is_pattern(pattern) and is_pattern(form.format(pattern))
    if not right:
        raise CheckpointError(
            f"{where}: {name} has {shown(pattern)}, which is no regular expression that PEFT can use", hint=_REPAIR
        )


def shown(value: object) -> str:
    """A value as messages show it, cut short."""
    said = repr(value)
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _wholes(value: Any) -> bool:
    return isinstance(value, list) and all(_whole(v) for v in value)


def _switch(value: Any) -> bool:
    return value in (0, 1)


def are_tokens(value: Any) -> bool:
    """Whether a value is what trainable_token_indices may be: token numbers, or token numbers by module name."""
    return _wholes(value) or (isinstance(value, Mapping) and all(_wholes(v) for v in value.values()))


def are_layer_ranges(value: Any) -> bool:
    """Whether a value is what layer_replication may be: pairs of layer numbers."""
    return isinstance(value, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(map(_whole, pair)) for pair in value
    )


_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "base_model_name_or_path": (lambda v: isinstance(v, str), "a name or path"),
    **{name: (_switch, "true or false") for name in ("fan_in_fan_out", "lora_bias", "use_dora", "use_rslora")},
    "exclude_modules": (lambda v: isinstance(v, str) or _texts(v), "module names or a pattern"),
    "layer_replication": (are_layer_ranges, "pairs of layer numbers"),
    "layers_pattern": (lambda v: isinstance(v, str) or _texts(v), "names or one name"),
    "layers_to_transform": (lambda v: _whole(v) or _wholes(v), "layer numbers or one number"),
    "modules_to_save": (_texts, "module names"),
    "target_modules": (lambda v: isinstance(v, str) or _texts(v), "module names or a pattern"),
    "target_parameters": (_texts, "parameter names"),
    "trainable_token_indices": (are_tokens, "token numbers, or token numbers by module name"),
}


def _pattern(raw: Mapping[str, Any], name: str, where: object, kind: type) -> dict[str, Any]:
    table = raw.get(name) or {}
    if not isinstance(table, Mapping):
        raise CheckpointError(
            f"{where}: {name} is {shown(table)}, expected a table by module-name pattern", hint=_REPAIR
        )
    for pattern, value in table.items():
        _check(f"{name}[{pattern!r}]", value, where, kind)
        _check_pattern(name, pattern, where)
    return dict(table)
