"""The adapter_config.json that makes PEFT load an adapter's tensors with the same update."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from adaptzip.checkpoints._config import ONLY, PeftConfig, anchored, parse_config
from adaptzip.checkpoints._effects import loaded_key
from adaptzip.checkpoints._targets import Targets
from adaptzip.checkpoints.peft.experts import one_rank, parameter_of
from adaptzip.checkpoints.peft.refusals import READ_ELSEWHERE
from adaptzip.checkpoints.peft.targeting import exact_targets, left_out
from adaptzip.checkpoints.peft.turned import NEW_LAYOUT
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import PLAIN

_DEFAULTS: dict[str, Any] = {
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "bias": "none",
    "inference_mode": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "peft_type": "LORA",
    "revision": None,
    "task_type": None,
}
# Fields that only matter before training; with other ranks some of them make PEFT fail or warn on loading.
_INITIALISATION: dict[str, Any] = {
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "init_lora_weights": True,
    "loftq_config": {},
    "lora_ga_config": None,
}
# PEFT's methods whose configuration has the fields of a LoRA's that do not tell of ranks and scales.
_KIN = ("LORA", *READ_ELSEWHERE)
# Fields that say which modules are targets.
_CHOOSING = ("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules")
# Tasks for which PEFT loads an adapter without a trained head.
_HEADLESS = ("CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION")
# Heads that PEFT loads for the other tasks without being told.
_HEADS = ("classifier", "score", "qa_outputs")


def config_text(adapter: Adapter) -> str:
    """adapter_config.json for an adapter that PEFT can hold; the source's own text where it is still true."""
    meta = adapter.meta
    if meta.dialect == "peft" and meta.config:
        if meta.config_text is not None and _tells(meta.config, adapter):
            return meta.config_text
        text = _dump(dict(meta.config))
        # Sorting the keys may change which of two overlapping patterns comes first.
        if _tells(json.loads(text), adapter):
            return text
    return _dump(build_config(adapter))


def describes(adapter: Adapter) -> bool:
    """Whether the adapter's own configuration makes PEFT load every module with its rank and scale."""
    return adapter.meta.dialect == "peft" and bool(adapter.meta.config) and _tells(adapter.meta.config, adapter)


def build_config(adapter: Adapter) -> dict[str, Any]:
    """A configuration with exact ranks and scales: patterns are whole module names, so none overlap."""
    config = dict(_DEFAULTS)
    if adapter.meta.dialect == "peft":
        config |= adapter.meta.config
    elif adapter.meta.config.get("peft_type") in _KIN:
        shared = (*_DEFAULTS, *_CHOOSING)
        config |= {name: adapter.meta.config[name] for name in shared if name in adapter.meta.config}
    config |= _INITIALISATION | {
        "bias": _bias(config, adapter),
        "peft_type": "LORA",
        "task_type": _task(config, adapter),
        "base_model_name_or_path": adapter.meta.base_model,
        "fan_in_fan_out": any(factors.layout == "transposed" for factors in adapter.modules.values()),
        "lora_bias": any(factors.bias is not None for factors in adapter.modules.values()),
        "use_dora": any(factors.magnitude is not None for factors in adapter.modules.values()),
        "use_rslora": False,
    }
    return config | _targets(config, adapter.modules) | _ranks_and_alphas(adapter.modules)


def _task(config: Mapping[str, Any], adapter: Adapter) -> str | None:
    """The source's task, but for one whose trained head PEFT would look for in vain."""
    heads = any(f".{head}." in key for head in _HEADS for key in adapter.extras) or config["modules_to_save"]
    task: str | None = config["task_type"]
    return task if task in _HEADLESS or heads else None


def _bias(config: Mapping[str, Any], adapter: Adapter) -> str:
    """What the configuration says of trained biases; those of targets in the file make it at least lora_only."""
    said = str(config.get("bias") or "none")
    said = "lora_only" if said in ONLY else said
    trained = any(key != loaded_key(key, adapter.modules) for key in adapter.extras)
    return "lora_only" if said == "none" and trained else said


def portable_config(adapter: Adapter) -> dict[str, Any]:
    """A configuration that every engine reads: one rank, alpha equal to it, and a list of targets.

    They are the source's own list where there is one, which chose these modules when it was trained. Ends of names
    that were chosen in another way could fit more modules than these, so that whole names are written then.
    """
    rank = next(iter(adapter.modules.values())).rank
    config = adapter.meta.config
    task = config.get("task_type")
    return {
        **_DEFAULTS,
        **_portable_targets(config, adapter),
        "base_model_name_or_path": adapter.meta.base_model,
        "fan_in_fan_out": any(factors.layout == "transposed" for factors in adapter.modules.values()),
        "init_lora_weights": True,
        "lora_alpha": rank,
        "r": rank,
        "task_type": task if task in _HEADLESS else None,
        "use_dora": False,
        "use_rslora": False,
    }


def _portable_targets(config: Mapping[str, Any], adapter: Adapter) -> dict[str, Any]:
    own = {name: config[name] for name in _CHOOSING if config.get(name)}
    wanted = own.get("target_modules")
    if not isinstance(wanted, list) or not all(map(Targets(own).load, adapter.modules)):
        return {"target_modules": exact_targets(adapter.modules)}
    return own | {"target_modules": sorted(wanted)}


def _dump(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, sort_keys=True)


def _tells(raw: Mapping[str, Any], adapter: Adapter) -> bool:
    config = parse_config(raw, "adapter_config.json")
    modules = adapter.modules.values()
    switches = {
        "use_dora": any(factors.magnitude is not None for factors in modules),
        "lora_bias": any(factors.bias is not None for factors in modules),
    }
    plain = {factors.layout for factors in modules} & PLAIN
    if plain:
        switches["fan_in_fan_out"] = "transposed" in plain
    return (
        raw.get("peft_type") == "LORA"
        and all(bool(raw.get(name)) == wanted for name, wanted in switches.items())
        and all(_agrees(config, name, factors) for name, factors in adapter.modules.items())
        and not left_out(adapter, raw)
    )


def _agrees(config: PeftConfig, name: str, factors: LoraFactors) -> bool:
    expert = parameter_of(name, factors)
    path = expert[0] if expert else name
    return config.rank(path) == factors.rank and config.scaling(path) == factors.scaling


def _targets(config: Mapping[str, Any], modules: Mapping[str, LoraFactors]) -> dict[str, Any]:
    """The source's own targets where they choose every module, else all modules by their whole names."""
    experts = {name: parameter_of(name, factors) for name, factors in modules.items()}
    plain = [name for name, expert in experts.items() if expert is None]
    found: dict[str, Any] = {}
    if any(experts.values()) and not config.get("peft_version"):
        # How experts' factors lie is told by the version alone.
        found["peft_version"] = NEW_LAYOUT
    if not config.get("target_parameters"):
        found["target_parameters"] = sorted({expert[0] for expert in experts.values() if expert}) or None
    if not all(map(Targets(config).load, plain)):
        found |= dict.fromkeys(_CHOOSING) | {"target_modules": exact_targets(plain)}
    return found


def _ranks_and_alphas(modules: Mapping[str, LoraFactors]) -> dict[str, Any]:
    ranks = {name: factors.rank for name, factors in modules.items()}
    alphas = {name: _alpha(factors) for name, factors in modules.items()}
    default = min(one_rank(modules), default=None)
    rank = _commonest(ranks) if default is None else ranks[default]
    alpha = _commonest(alphas) if default is None else alphas[default]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {anchored(name): value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {anchored(name): value for name, value in alphas.items() if value != alpha},
    }


def _alpha(factors: LoraFactors) -> float:
    """The alpha for which alpha / rank is the scale, to the last bit where there is one."""
    product = factors.scaling * factors.rank
    near = (product, math.nextafter(product, math.inf), math.nextafter(product, -math.inf))
    alpha = next((value for value in near if value / factors.rank == factors.scaling), product)
    return int(alpha) if alpha == int(alpha) else alpha


def _commonest(values: Mapping[str, Any]) -> Any:
    counts: dict[Any, int] = {}
    for value in values.values():
        counts[value] = counts.get(value, 0) + 1
    return max(counts, key=lambda value: (counts[value], value))
