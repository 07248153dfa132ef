"""What the tensors beside the factors do to the base model, as PEFT's own loader treats them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from torch import Tensor

from adaptzip.checkpoints.peft.keys import PREFIX, TOKENS
from adaptzip.errors import CheckpointError

Role = Literal["replace", "token_rows", "ignore"]
"""replace: overwrites the base tensor. token_rows: overwrites some of its rows. ignore: does nothing."""

HEAD_NAMES = ("classifier", "score", "qa_outputs")
"""Modules that PEFT trains a copy of where the configuration names none, by the task."""

_COPY = re.compile(r"\.modules_to_save\.(default\.)?")
_IN_MEMORY = ".modules_to_save.default."
_ORIGINAL = ".original_module."


def extra_target(key: str, config: Mapping[str, Any], modules: Collection[str] = ()) -> tuple[Role, str]:
    """What an extra does, and the name of the base model's tensor that it does it to.

    PEFT loads a tensor where the wrapped model has its key, and drops it silently where not. A module with
    LoRA keeps its own weight and bias under `base_layer`, one with trainable tokens under
    `token_adapter.base_layer`, and a `modules_to_save` module has an unused `original_module` beside the copy
    that the plain key is loaded into. The copy's own key means the same tensor: PEFT writes biases under it as well,
    and files that were saved without PEFT have the adapter's name `default` in it. The plain bias of a module with
    LoRA, as PEFT before 0.7 and LoRETTA save a trained one, is meant like that under `base_layer`: `loaded_key` gives
    it a key that PEFT loads.

    Args:
        key: the extra's key in the file.
        config: adapter_config.json.
        modules: names of the modules with LoRA factors.
    """
    name = key.removeprefix(PREFIX)
    if name.endswith(TOKENS):
        return "token_rows", name.removesuffix(TOKENS) + ".weight"
    copied = _COPY.search(name)
    if copied is not None:
        return "replace", f"{name[: copied.start()]}.{name[copied.end() :]}"
    if _ORIGINAL in name:
        return "ignore", name.replace(_ORIGINAL, ".")
    if ".base_layer." in name:
        return "replace", name.replace(".token_adapter.base_layer.", ".").replace(".base_layer.", ".")
    module = name.rpartition(".")[0]
    if module in modules and name.endswith(".bias"):
        return "replace", name
    if module in modules or _has_tokens(module, config):
        return "ignore", name
    return "replace", name


def is_copied(key: str, name: str, config: Mapping[str, Any]) -> bool:
    """Whether PEFT trained a copy of the whole module that the extra `key` replaces the tensor `name` of.

    PEFT copies every module whose name ends in one of `modules_to_save`: `classifier` means `pre_classifier` as well.
    """
    if ".base_layer." in key:
        return False
    saved = config.get("modules_to_save") or HEAD_NAMES
    return ".modules_to_save." in key or any(f"{module}." in f"{name}." for module in saved)


def is_original(key: str) -> bool:
    """Whether an extra is the untrained weight of a module that PEFT trained a copy of.

    PEFT saves it where the vocabulary was enlarged, and loads it into what other modules share with that module.
    """
    return _ORIGINAL in key


def check_originals(keys: Iterable[str], replaced: Collection[str]) -> None:
    """Raise a CheckpointError if the original of a module is there without its trained copy.

    Args:
        replaced: names of the tensors that are brought whole.
    """
    for key in filter(is_original, keys):
        if extra_target(key, {})[1] not in replaced:
            raise CheckpointError(
                f"{key} is the untrained original of a module whose trained copy is not there",
                hint="save the adapter again with PEFT's save_pretrained",
            )


def loaded_key(key: str, modules: Collection[str]) -> str:
    """The key under which PEFT loads an extra: the bias of a module with LoRA is that of its base layer."""
    module, _, leaf = key.rpartition(".")
    if leaf == "bias" and module.removeprefix(PREFIX) in modules:
        return f"{module}.base_layer.bias"
    return key


def with_plain_keys(extras: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The extras, with the key that PEFT loads a trained copy from in place of its name in memory."""
    plain = {key: key.replace(_IN_MEMORY, ".") for key in extras}
    return {key if plain[key] in extras else plain[key]: tensor for key, tensor in extras.items()}


def token_indices(key: str, config: Mapping[str, Any]) -> list[int] | None:
    """The row numbers of an extra whose role is `token_rows`, in the order of its rows, or None."""
    indices = config.get("trainable_token_indices")
    if isinstance(indices, dict):
        module = key.removeprefix(PREFIX).removesuffix(TOKENS)
        fitting = [name for name in indices if _ends(module, name)]
        return list(indices[max(fitting, key=len)]) if fitting else None
    return list(indices) if indices else None


def check_whole(key: str, tensor: Tensor) -> None:
    """Raise a CheckpointError if an extra holds no number, as where a ZeRO-3 run saved its own shard alone."""
    if not tensor.numel():
        raise CheckpointError(
            f"{key} is empty ({list(tensor.shape)}), expected a trained tensor",
            hint="a distributed training run may have saved only its shards; gather them and save again",
        )


def _has_tokens(module: str, config: Mapping[str, Any]) -> bool:
    """Whether the configuration names `module` as one with trainable tokens; a bare list names none."""
    indices = config.get("trainable_token_indices")
    return isinstance(indices, dict) and any(_ends(module, name) for name in indices)


def _ends(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")
