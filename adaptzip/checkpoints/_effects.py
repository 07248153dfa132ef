"""What the tensors beside the factors do to the base model, as PEFT's own loader treats keys and configuration.

Every dialect has its extras under the keys that PEFT would give them, and most have PEFT's fields in their
configuration, so that this is what holds where a dialect says nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from adaptzip.checkpoints._config import are_layer_ranges, are_tokens, shown
from adaptzip.checkpoints._keys import PREFIX, TOKENS
from adaptzip.core.adapter import Adapter
from adaptzip.core.effects import HEAD_NAMES, Effect, Effects
from adaptzip.core.patterns.matching import fullmatch, is_pattern
from adaptzip.errors import CheckpointError

_EMBEDDINGS = ("embed_tokens", "lm_head")
"""Names of modules by which PEFT knows that embeddings are trained."""
_COPY = re.compile(r"\.modules_to_save\.(default\.)?")
IN_MEMORY = ".modules_to_save.default."
_ORIGINAL = ".original_module."


def effects_of(adapter: Adapter) -> Effects:
    """What an adapter does beside its updates, from the keys of its extras and PEFT's fields in its configuration.

    Raises:
        CheckpointError: if layer_replication is no list of pairs of layer numbers.
    """
    config = adapter.meta.config
    ranges = config.get("layer_replication") or []
    if not are_layer_ranges(ranges):
        raise CheckpointError(
            f"layer_replication is {shown(ranges)}, expected pairs of layer numbers", hint="repair the configuration"
        )
    task = config.get("task_type")
    return Effects(
        extras={key: extra_effect(key, config, adapter.modules) for key in adapter.extras},
        task=str(task) if task else None,
        layers=tuple((start, end) for start, end in ranges),
        trained_tied=bool(config.get("ensure_weight_tying")),
        copies_stay_tied=_stays_tied(config, "modules_to_save"),
        updates_stay_tied=_stays_tied(config, "target_modules"),
        rows_by_module=isinstance(config.get("trainable_token_indices"), Mapping),
    )


def extra_effect(key: str, config: Mapping[str, Any], modules: Collection[str] = ()) -> Effect:
    """What an extra does, and the name of the base model's tensor that it does it to.

    PEFT loads a tensor where the wrapped model has its key, and drops it silently where not. A module with
    LoRA keeps its own weight and bias under `base_layer`, one with trainable tokens under
    `token_adapter.base_layer`, and a `modules_to_save` module has an unused `original_module` beside the copy
    that the plain key is loaded into; PEFT saves that one where the vocabulary was enlarged, and loads it into what
    other modules share with it. The copy's own key means the same tensor as the plain one: PEFT writes biases under it
    as well, and files that were saved without PEFT have the adapter's name `default` in it. The plain bias of a module
    with LoRA, as PEFT before 0.7 and LoRETTA save a trained one, is meant like that under `base_layer`: `loaded_key`
    gives it a key that PEFT loads.

    Args:
        key: the extra's key in the file.
        config: the dialect's configuration, in PEFT's fields.
        modules: names of the modules with LoRA factors.
    """
    name = key.removeprefix(PREFIX)
    if name.endswith(TOKENS):
        return Effect("token_rows", name.removesuffix(TOKENS) + ".weight", _token_rows(key, config))
    copied = _COPY.search(name)
    if copied is not None:
        # Another adapter's name than `default` may stand there, which no key tells from a module's.
        target = _COPY.sub(".", name)  # A copied module may lie within another.
        return _replacing(key, target, config, placed=IN_MEMORY in key)
    if _ORIGINAL in name:
        return Effect("original", name.replace(_ORIGINAL, "."))
    if ".base_layer." in name:
        return Effect("replace", name.replace(".token_adapter.base_layer.", ".").replace(".base_layer.", "."))
    module = name.rpartition(".")[0]
    if module in modules and name.endswith(".bias"):
        return _replacing(key, name, config)
    if module in modules or _has_tokens(module, config):
        return Effect("ignore", name)
    return _replacing(key, name, config)


def _replacing(key: str, name: str, config: Mapping[str, Any], *, placed: bool = True) -> Effect:
    return Effect("replace", name, copied=_is_copied(key, name, config), placed=placed)


def _is_copied(key: str, name: str, config: Mapping[str, Any]) -> bool:
    """Whether PEFT trained a copy of the whole module that the extra `key` replaces the tensor `name` of.

    PEFT copies every module whose name ends in one of `modules_to_save`: `classifier` means `pre_classifier` as well.
    """
    if ".base_layer." in key:
        return False
    saved = config.get("modules_to_save") or HEAD_NAMES
    return ".modules_to_save." in key or any(f"{module}." in f"{name}." for module in saved)


def _stays_tied(config: Mapping[str, Any], field: str) -> bool:
    """Whether PEFT ties what it trains of the embeddings: on request, and where `field` has one by its usual name."""
    named = config.get(field)
    if not config.get("ensure_weight_tying"):
        return False
    if isinstance(named, str):
        return is_pattern(named) and any(fullmatch(named, name) for name in _EMBEDDINGS)
    return isinstance(named, list | tuple) and any(str(name).rpartition(".")[2] in _EMBEDDINGS for name in named)


def _token_rows(key: str, config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The row numbers of an extra whose role is `token_rows`, in the order of its rows, or None."""
    indices = config.get("trainable_token_indices")
    if not indices or not are_tokens(indices):
        return None
    if isinstance(indices, Mapping):
        module = key.removeprefix(PREFIX).removesuffix(TOKENS)
        fitting = [name for name in indices if _ends(module, name)]
        return tuple(indices[max(fitting, key=len)]) if fitting else None
    return tuple(indices)


def loaded_key(key: str, modules: Collection[str]) -> str:
    """The key under which PEFT loads an extra: the bias of a module with LoRA is that of its base layer."""
    module, _, leaf = key.rpartition(".")
    if leaf == "bias" and module.removeprefix(PREFIX) in modules:
        return f"{module}.base_layer.bias"
    return key


def with_plain_keys(extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The extras, with the key that PEFT loads a trained copy from in place of its name in memory."""
    plain = {key: key.replace(IN_MEMORY, ".") for key in extras}
    return {key if plain[key] in extras else plain[key]: tensor for key, tensor in extras.items()}


def _has_tokens(module: str, config: Mapping[str, Any]) -> bool:
    """Whether the configuration names `module` as one with trainable tokens; a bare list names none."""
    indices = config.get("trainable_token_indices")
    return isinstance(indices, Mapping) and any(_ends(module, name) for name in indices)


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")
