"""Every key of a PEFT file has exactly one meaning: part of a module's factors, an extra, or refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from adaptzip.errors import CheckpointError, RefusedError

PREFIX = "base_model.model."
"""What PEFT puts before the module's path in the base model."""

Part = Literal["A", "B", "embedding_A", "embedding_B", "bias", "magnitude"]

SUFFIXES: dict[Part, str] = {
    "A": ".lora_A.weight",
    "B": ".lora_B.weight",
    "embedding_A": ".lora_embedding_A",
    "embedding_B": ".lora_embedding_B",
    "bias": ".lora_B.bias",
    "magnitude": ".lora_magnitude_vector",
}
"""How the key of each part of a module ends."""

_OTHERS = {
    ".lora_latent_mapping": "LoRA-XS, whose core stands between fixed A and B",
    ".lora_diag": "KaSA, whose diagonal stands between A and B and whose base weight is truncated",
    ".lora_E": "AdaLoRA, whose singular values stand between A and B",
    ".lora_arrow": "Arrow, which routes between several LoRAs",
    ".lora_monteclora": "MonteCLoRA",
}


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
        CheckpointError: for a key that has no meaning in a PEFT LoRA.
    """
    modules: dict[str, dict[Part, str]] = {}
    extras: list[str] = []
    for key in keys:
        found = split(key)
        if found is not None:
            module, part = found
            modules.setdefault(module, {})[part] = key
        else:
            _check_extra(key, where)
            extras.append(key)
    return Keys({name: modules[name] for name in sorted(modules)}, tuple(extras))


def split(key: str) -> tuple[str, Part] | None:
    """(module name, part) of a factor's key, else None."""
    if not key.startswith(PREFIX):
        return None
    for part, suffix in SUFFIXES.items():
        if key.endswith(suffix):
            return key[len(PREFIX) : -len(suffix)], part
    return None


def _check_extra(key: str, where: object) -> None:
    for piece, what in _OTHERS.items():
        if piece in key:
            raise RefusedError(f"{where}: the key {key} belongs to {what}; it is not W + s*B@A")
    if "lora_" in key.rpartition(".base_layer.")[2] or not key.startswith("base_model."):
        raise CheckpointError(
            f"{where}: the key {key} has no meaning in a PEFT LoRA",
            hint="expected base_model.model.<module>.lora_A.weight and the like",
        )
