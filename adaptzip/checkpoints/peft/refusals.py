"""What an adapter_config.json can ask for that is no plain low-rank update, refused by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adaptzip.checkpoints._config import DIFFERENT
from adaptzip.errors import CheckpointError, RefusedError

_MERGE = "merge it into its base model with PEFT, then extract a LoRA from the difference"
_UNCONVERTED = "save it as a plain LoRA: save_pretrained(..., path_initial_model_for_weight_conversion=...)"
_CONVERT = "turn it into a LoRA first with PEFT: peft.save_as_lora(path, model, rank=...)"

# Initialisations that leave the base weights as they are.
_PLAIN_INITS = {"true", "false", "none", "gaussian", "eva", "orthogonal", "mica"}
# Initialisations that change the base weights, so that the update is s * (B @ A - B0 @ A0).
_CHANGING_INITS = {
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "corda": "CorDA",
    "lora_ga": "LoRA-GA",
    "loftq": "LoftQ",
}

# Fields that, where set, make the layer something else than W + s*B@A.
_VARIANTS = {
    "alora_invocation_tokens": ("aLoRA, which acts only after its invocation tokens", "load it with PEFT"),
    "kasa_config": ("KaSA, which truncates the base weight and scales the factors by a diagonal", _MERGE),
    "use_bdlora": ("BD-LoRA, whose factors are stored as blocks", _MERGE),
    "arrow_config": ("Arrow, which routes between several LoRAs", "give its LoRAs one by one"),
    "monteclora_config": ("MonteCLoRA, which samples its factors", _MERGE),
    "use_qalora": ("QALoRA, whose A sees pooled inputs", "load it with PEFT on its quantised base"),
    "enable_lora": (
        "the old MergedLinear layout, which adapts slices of a fused weight and does not say where they lie",
        "train or save it again with PEFT 0.3 or newer",
    ),
}

# Fields that leave the update W + s*B@A alone, or that this package understands.
_KNOWN = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "id2label", "inference_mode", "init_lora_weights", "label2id",
    "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias",
    "lora_dropout",
    "lora_ga_config", "megatron_config", "megatron_core", "merge_weights", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
    "target_parameters", "task_type", "trainable_token_indices", "use_dora", "use_rslora", "velora_config",
}  # fmt: skip

_CONVERTIBLE = {
    "RANDLORA", "C3A", "FOURIERFT", "WAVEFT",
    "PSOFT",
}  # fmt: skip
_PROMPTS = {
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT",
    "CARTRIDGE",
}  # fmt: skip

READ_ELSEWHERE = {
    "ADALORA": "AdaLoRA", "DELORA": "DeLoRA", "GRALORA": "GraLoRA", "LOHA": "LoHa", "LOKR": "LoKr",
    "MISS": "MiSS", "TINYLORA": "TinyLoRA", "UNILORA": "UniLoRA", "VBLORA": "a VB-LoRA", "VERA": "VeRA",
}  # fmt: skip
"""Methods that other dialects read, where the keys are of one."""
_ROUTERS = {"POLY", "XLORA"}


def refuse_variants(raw: Mapping[str, Any], where: object) -> None:
    """Refuse a configuration of anything but low-rank updates W + s*B@A, or DoRA's rescaling of it.

    Raises:
        RefusedError: naming the method and what to do instead.
        CheckpointError: if the file is no PEFT configuration.
    """
    _refuse_type(raw, where)
    for name, (what, hint) in _VARIANTS.items():
        if raw.get(name) or isinstance(raw.get(name), dict):  # PEFT takes an empty table for one with all defaults.
            raise RefusedError(f"{where}: {name} is set: {what}; it is not W + s*B@A", hint=hint)
    _refuse_init(raw.get("init_lora_weights", True), where)
    _refuse_unknown(raw, where)


def _refuse_type(raw: Mapping[str, Any], where: object) -> None:
    for key in ("peft_type", "task_type"):
        if not isinstance(raw.get(key), str | None):
            raise CheckpointError(f"{where}: {key} is {raw[key]!r}, expected text", hint="repair adapter_config.json")
    kind = raw.get("peft_type")
    if kind is None:
        raise CheckpointError(f"{where}: has no peft_type", hint="expected PEFT's adapter_config.json of a LoRA")
    if kind == "LORA":
        return
    hint = _CONVERT if kind in _CONVERTIBLE else _MERGE
    if kind in _PROMPTS:
        hint = "it changes no weights, so there is nothing to merge"
    if kind in _ROUTERS:
        hint = "it has no one update to merge: load it with PEFT"
    if kind in READ_ELSEWHERE:
        hint = f"its weights are none of {READ_ELSEWHERE[kind]}: {DIFFERENT}"
    raise RefusedError(f"{where}: peft_type is {kind}, expected LORA", hint=hint)


def _refuse_init(init: object, where: object) -> None:
    name = str(init).lower()
    if name in _PLAIN_INITS:
        return
    for start, title in _CHANGING_INITS.items():
        if name.startswith(start):
            raise RefusedError(
                f"{where}: init_lora_weights is {init!r}: {title} changes the base weights when it is "
                "loaded, so the adapter alone is not W + s*B@A",
                hint=_UNCONVERTED if start != "loftq" else _MERGE,
            )
    raise RefusedError(
        f"{where}: init_lora_weights is {init!r}, which is unknown; it might change the base weights",
        hint="set it to true if the base weights stay as they are",
    )


def _refuse_unknown(raw: Mapping[str, Any], where: object) -> None:
    """An unknown switch, table or list might change the update; unknown numbers and texts need one to act."""
    for name, value in raw.items():
        if name in _KNOWN or name in _VARIANTS or re.match("_", name):
            continue
        if value is True or (isinstance(value, dict | list) and value):
            raise RefusedError(
                f"{where}: {name} is set, which is unknown and might change what the adapter does",
                hint=f"remove {name} from adapter_config.json if it leaves the update W + s*B@A alone",
            )
