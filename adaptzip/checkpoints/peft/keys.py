"""Every key of a PEFT file has one meaning: part of a module's factors, an extra, or refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from adaptzip.checkpoints._keys import PREFIX, refuse_methods
from adaptzip.errors import CheckpointError

__all__ = ["PREFIX", "Keys", "Part", "SUFFIXES", "classify", "split"]

Part = Literal["A", "B", "embedding_A", "embedding_B", "bias", "magnitude"]

SUFFIXES: dict[Part, tuple[str, ...]] = {
    "A": (".lora_A.weight",),
    "B": (".lora_B.weight",),
    "embedding_A": (".lora_embedding_A",),
    "embedding_B": (".lora_embedding_B",),
    "bias": (".lora_B.bias",),
    "magnitude": (".lora_magnitude_vector", ".lora_magnitude_vector.weight"),
}
"""How the key of each part of a module ends; the first form is the one that is written."""


@dataclass(frozen=True)
class Keys:
    """A file's keys by meaning.

    Attributes:
        modules: the key of each part, by module name (the path in the base model) in sorted order.
        extras: the keys that belong to no factor, in file order.
    """

    modules: dict[str, dict[Part, str]]
    extras: tuple[str, ...]


def classify(keys: Iterable[str], where: object) -> Keys:
    """Give every key its meaning.

    Raises:
        RefusedError: for a key of another method.
        CheckpointError: for a key that has no meaning in a PEFT LoRA, or two keys with one meaning.
    """
    modules: dict[str, dict[Part, str]] = {}
    extras: list[str] = []
    keys = list(keys)
    for key in keys:
        refuse_methods(key, where)
    for key in keys:
        found = split(key)
        if found is None:
            check_extra(key, where)
            extras.append(key)
            continue
        parts = modules.setdefault(found[0], {})
        if found[1] in parts:
            raise CheckpointError(f"{where}: the keys {parts[found[1]]} and {key} mean the same tensor")
        parts[found[1]] = key
    return Keys({name: modules[name] for name in sorted(modules)}, tuple(extras))


def split(key: str) -> tuple[str, Part] | None:
    """(module name, part) of a factor's key, else None."""
    if not key.startswith(PREFIX):
        return None
    for part, suffixes in SUFFIXES.items():
        for suffix in suffixes:
            if key.endswith(suffix):
                return key[len(PREFIX) : -len(suffix)], part
    return None


def check_extra(key: str, where: object) -> None:
    """Raises: CheckpointError: if a key that is no factor's has no meaning in a PEFT LoRA."""
    if key.startswith(PREFIX) and ".lora_" not in key:
        return
    raise CheckpointError(
        f"{where}: the key {key} has no meaning in a PEFT LoRA",
        hint="expected base_model.model.<module>.lora_A.weight and the like, as PEFT's save_pretrained writes them",
    )
