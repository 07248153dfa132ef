"""Which family of image models a base model or an adapter is of, told by the names and the widths of its layers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from adaptzip.checkpoints._image import unet
from adaptzip.checkpoints._image.families import FAMILIES
from adaptzip.checkpoints._image.names import UNET
from adaptzip.checkpoints._image.rules import Family

_CONTEXTS = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    2048: "Stable Diffusion XL",
    1280: "the refiner of Stable Diffusion XL",
}
"""Of UNets, by the width of the texts that their attention reads."""
_READERS = ("attn2.to_k", "attn2.to_v")


def is_unet(layers: Iterable[str]) -> bool:
    """Whether layers are a UNet's, in diffusers' names or the original ones."""
    return any(unet.is_original(path) or path.partition(".")[0] in UNET for path in layers)


def family_of(layers: Collection[str]) -> Family | None:
    """The family of transformers of which most of a model's layers are; None where none is, or several that call or
    cut these layers otherwise."""
    best = _most(layers)
    answers = [[_rules(family, path) for path in layers] for family in best]
    return best[0] if best and all(answer == answers[0] for answer in answers) else None


def titles_of(layers: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """What models with such layers are called, for messages; none where that is not known.

    Args:
        layers: the shape of the weight or of the update of each, by path.
    """
    if is_unet(layers):
        widths = {shape[1] for path, shape in layers.items() if path.endswith(_READERS) and len(shape) > 1}
        return tuple(_CONTEXTS[width] for width in sorted(widths) if width in _CONTEXTS and len(widths) == 1)
    return tuple(family.title for family in _most(layers))


def _most(layers: Collection[str]) -> list[Family]:
    counts = {family.title: sum(_has(family, path) for path in layers) for family in FAMILIES}
    most = max(counts.values())
    return [family for family in FAMILIES if most and counts[family.title] == most]


def _rules(family: Family, path: str) -> tuple[object, ...]:
    """What a family says of a layer, its sizes left out."""
    rules = (family.of_original(path), (family.of_diffusers(path) or (None,))[0])
    return tuple(
        rule and (rule.original, rule.diffusers, rule.shares, rule.halves_swapped, rule.swapped_ratio) for rule in rules
    )


def _has(family: Family, path: str) -> bool:
    return family.of_original(path) is not None or family.of_diffusers(path) is not None
