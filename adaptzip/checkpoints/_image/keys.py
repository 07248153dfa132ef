"""What a key of an image adapter says: the module, as the file spells it, and which part of its update the tensor is.

Programs agree on few parts and on fewer spellings; the module's own name is the dialect's business.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.errors import CheckpointError, RefusedError

SPELLINGS: Mapping[str, tuple[str, str]] = {
    "lora_down": ("lora_down.weight", "lora_up.weight"),
    "lora_A": ("lora_A.weight", "lora_B.weight"),
    "lora.down": ("lora.down.weight", "lora.up.weight"),
    "lora_linear_layer": ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    "lora_A.default": ("lora_A.default.weight", "lora_B.default.weight"),
    "down": ("down.weight", "up.weight"),
}
"""How files call the two factors, A and B, by a short name of the spelling; the first is kohya's, the second PEFT's."""

ALPHAS = ("alpha", "lora_alpha")
_PARTS: Mapping[str, str] = {
    **{suffix: part for pair in SPELLINGS.values() for suffix, part in zip(pair, ("down", "up"), strict=True)},
    **{f"{up.removesuffix('.weight')}.bias": "bias" for _, up in SPELLINGS.values()},
    "lora_mid.weight": "mid",
    **dict.fromkeys(ALPHAS, "alpha"),
    "dora_scale": "magnitude",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    **{f"hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    "diff": "diff",
    "w_norm": "diff",
    "diff_b": "diff_b",
    "b_norm": "diff_b",
}
"""What each end of a key is."""

_REFUSED: Mapping[str, str] = {
    "oft_blocks": "OFT, which multiplies the base weight by a rotation",
    "oft_diag": "Diag-OFT, which multiplies the base weight by a rotation",
    "rescale": "OFT, which multiplies the base weight by a rotation",
    "on_input": "(IA)^3, which scales the base weight",
    "a1.weight": "GLoRA, whose update depends on the base weight",
    "set_weight": "a whole weight that replaces the base's",
    "reshape_weight": "a change of the base weight's shape",
}
"""Ends of keys of what is no update that can be added."""
_LONGEST = max(end.count(".") for end in (*_PARTS, *_REFUSED)) + 1


@dataclass(frozen=True)
class Key:
    """A key taken apart.

    Attributes:
        stem: the module, as the file spells it.
        end: the rest, as the file spells it.
        part: what the tensor is: down, up, mid, alpha, magnitude, bias, diff, diff_b, or a LyCORIS tensor's name.
    """

    stem: str
    end: str
    part: str


def split(key: str) -> Key | None:
    """A key taken apart, or None where its end is none of an update's."""
    words = key.split(".")
    for length in range(min(_LONGEST, len(words) - 1), 0, -1):
        end = ".".join(words[-length:])
        if end in _PARTS:
            return Key(".".join(words[:-length]), end, _PARTS[end])
    return None


def has_update(keys: Iterable[str]) -> bool:
    """Whether one of the keys is that of a factor."""
    return any(
        found is not None and found.part not in ("alpha", "bias", "diff", "diff_b") for found in map(split, keys)
    )


def by_module(source: Checkpoint, title: str, others: Collection[str] = ()) -> dict[str, dict[str, str]]:
    """The key of each part by the module's spelling.

    Args:
        source: the checkpoint.
        title: what messages call its dialect.
        others: keys that are no part of a module.

    Raises:
        CheckpointError: if a key has no meaning, or two mean the same tensor.
        RefusedError: if a key belongs to what cannot be added.
    """
    modules: dict[str, dict[str, str]] = {}
    for key in source.tensors:
        if key in others:
            continue
        found = split(key)
        if found is None:
            raise _without_meaning(source, key, title)
        parts = modules.setdefault(found.stem, {})
        if found.part in parts:
            raise CheckpointError(f"{source.weights}: the keys {parts[found.part]} and {key} mean the same tensor")
        parts[found.part] = key
    return modules


def spelling_of(keys: Iterable[str], default: str) -> str:
    """How most of a file's factors are spelled, by the short name in `SPELLINGS`."""
    counts = {name: 0 for name in SPELLINGS}
    names = {down: name for name, (down, _) in SPELLINGS.items()}
    for found in map(split, keys):
        if found is not None and found.part == "down":
            counts[names[found.end]] += 1
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else default


def refusal(source: Checkpoint) -> RefusedError | None:
    """The error about a file that has keys of what cannot be added; None for any other."""
    return next((error for key in source.tensors if (error := _refused(source, key)) is not None), None)


def _refused(source: Checkpoint, key: str) -> RefusedError | None:
    for end, what in _REFUSED.items():
        if key.endswith(f".{end}"):
            return RefusedError(
                f"{source.weights}: the key {key} belongs to {what}",
                hint="merge it into its base model with the program that trained it",
            )
    return None


def _without_meaning(source: Checkpoint, key: str, title: str) -> CheckpointError | RefusedError:
    return _refused(source, key) or CheckpointError(
        f"{source.weights}: the key {key} has no meaning in {title}",
        hint="expected the parts of an update, such as <module>.lora_down.weight, .lora_up.weight and .alpha",
    )
