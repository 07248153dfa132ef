"""An adapter's modules under the names of diffusers' models, or of the original implementation's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from adaptzip.checkpoints._image import unet
from adaptzip.checkpoints._image.families import FAMILIES, SAME, SHARED, Family, Rule, by_width
from adaptzip.checkpoints._image.fusing import fuse_rows, split_rows
from adaptzip.checkpoints._image.names import DENOISERS, ORIGINAL, denoiser
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import RefusedError

Found = TypeVar("Found")
Modules = Mapping[str, LoraFactors]
_CLIP = re.compile(r"^(text_encoder(?:_2)?\.)(encoder\.layers\.\d+\.(?:self_attn|mlp)\.)")
_HINT = "write it in the dialect that it came in, which programs translate themselves"


def to_diffusers(modules: Modules) -> dict[str, LoraFactors]:
    """The same update of modules as diffusers calls and cuts them; those of text encoders stay.

    Raises:
        RefusedError: if a module has no known name there.
    """
    ours, rest = _denoiser(modules, {ORIGINAL})
    if not ours:
        return rest
    family = next((family for family in FAMILIES if family.original(ours)), None)
    if family is not None:
        component, found = family.component, _apart(family, ours)
    elif any(unet.is_original(path) for path in ours):
        component = "unet"
        found = {_known(unet.to_diffusers(path), path, "diffusers"): factors for path, factors in ours.items()}
    elif any(family.diffusers(ours) for family in FAMILIES) or any(map(_in_both, ours)):
        component, found = "transformer", dict(ours)
    else:
        raise _unknown(next(iter(ours)), "diffusers")
    return _together({f"{component}.{path}": factors for path, factors in found.items()}, rest)


def to_diffusers_where_known(modules: Modules) -> dict[str, LoraFactors]:
    """The same, but that modules of a model without known names in diffusers keep their own."""
    try:
        return to_diffusers(modules)
    except RefusedError:
        return dict(modules)


def to_original(modules: Modules, *, keep_sd1: bool = False) -> dict[str, LoraFactors]:
    """The same update of modules as the original implementation calls and cuts them; those of text encoders stay, but
    that CLIP's have the `text_model` before them that transformers 5 leaves out.

    Args:
        modules: by name.
        keep_sd1: call a UNet of Stable Diffusion 1 as diffusers does.

    Raises:
        RefusedError: if a module has no known name there.
    """
    modules = {_CLIP.sub(r"\1text_model.\2", name): factors for name, factors in modules.items()}
    if keep_sd1:
        modules = _sd1_in_diffusers(modules)
    ours, rest = _denoiser(modules, set(DENOISERS) - {ORIGINAL})
    if not ours:
        return rest
    unets = {name for name in modules if name.startswith("unet.")}
    family = next((family for family in FAMILIES if family.diffusers(ours)), None) or by_width(ours)
    if unets:
        if keep_sd1 and not _is_sdxl(ours):
            return dict(modules)
        deep = _is_sdxl(ours)
        found = {
            _known(unet.to_original(path, attention_below=deep), path, "the original model"): factors
            for path, factors in ours.items()
        }
    elif family is not None:
        found = _as_one(family, ours)
    elif any(SAME.match(path) for path in ours):
        found = dict(ours)
    elif any(SHARED.match(path) for path in ours):
        raise RefusedError(
            f"module {next(iter(ours))} may be of Flux, Stable Diffusion 3 or Qwen-Image, whose original names differ",
            hint="write it with --as diffusers",
        )
    else:
        raise _unknown(next(iter(ours)), "the original model")
    component = denoiser(found)
    return _together({f"{component}.{path}": factors for path, factors in found.items()}, rest)


def _sd1_in_diffusers(modules: Modules) -> Modules:
    """With diffusers' names for a UNet of Stable Diffusion 1 that has original ones."""
    if not any(unet.is_original(path) for path in _denoiser(modules, {ORIGINAL})[0]):
        return modules
    found = to_diffusers(modules)
    return modules if _is_sdxl(_denoiser(found, {"unet"})[0]) else found


def _in_both(path: str) -> bool:
    return bool(SAME.match(path) or SHARED.match(path))


def _denoiser(modules: Modules, components: set[str]) -> tuple[dict[str, LoraFactors], dict[str, LoraFactors]]:
    """The modules of these components by path, and all others by name."""
    ours: dict[str, LoraFactors] = {}
    rest: dict[str, LoraFactors] = {}
    found = sorted({name.partition(".")[0] for name in modules} & set(DENOISERS))
    if len(found) > 1:
        raise RefusedError(
            f"the adapter is of several denoisers, {', '.join(found)}, which have one name in the other dialect",
            hint="write it in the dialect that it came in",
        )
    for name, factors in modules.items():
        component, _, path = name.partition(".")
        (ours if component in components else rest)[path if component in components else name] = factors
    return ours, rest


def _is_sdxl(paths: Mapping[str, LoraFactors]) -> bool:
    """Whether a UNet is SDXL's: of more than one transformer in an attention, or none in the first block down."""
    if any(path.startswith(("down_blocks.0.attentions.", "down_blocks.3.", "up_blocks.3.")) for path in paths):
        return False
    return any(
        re.search(r"transformer_blocks\.[1-9]|^up_blocks\.0\.attentions\.", path)
        or (path.endswith(("attn2.to_k", "attn2.to_v")) and factors.shape[1] >= 1280)
        for path, factors in paths.items()
    )


def _apart(family: Family, modules: Modules) -> dict[str, LoraFactors]:
    found: dict[str, LoraFactors] = {}
    for path, factors in modules.items():
        rule, number = _rule({rule.original: rule for rule in family.rules}, path, "diffusers")
        parts = split_rows(path, _swapped(rule, factors), rule.shares)
        some = any(bool(part.B.any()) for part in parts)
        for name, part in zip(rule.diffusers, parts, strict=True):
            # XLabs' files have rows of zeros for layers that they leave as they are.
            kept = bool(part.B.any()) or part.magnitude is not None or part.bias is not None
            if len(parts) == 1 or not some or kept:
                found[name.replace("#", number)] = part
    return found


def _as_one(family: Family, modules: Modules) -> dict[str, LoraFactors]:
    rules = {name: (rule, place) for rule in family.rules for place, name in enumerate(rule.diffusers)}
    groups: dict[str, tuple[Rule, dict[int, LoraFactors]]] = {}
    for path, factors in modules.items():
        (rule, place), number = _rule(rules, path, "the original model")
        groups.setdefault(rule.original.replace("#", number), (rule, {}))[1][place] = factors
    return {
        path: _swapped(rule, fuse_rows(path, dict(sorted(parts.items())), rule.shares))
        for path, (rule, parts) in groups.items()
    }


def _rule(rules: Mapping[str, Found], path: str, where: str) -> tuple[Found, str]:
    """What holds for a path, and the number in it."""
    number = re.search(r"(?<=\.)\d+(?=\.)", path)
    numbered = path if number is None else f"{path[: number.start()]}#{path[number.end() :]}"
    for spelled in (numbered, path):
        if spelled in rules:
            return rules[spelled], "" if number is None else number[0]
    raise _unknown(path, where)


def _swapped(rule: Rule, factors: LoraFactors) -> LoraFactors:
    """With the halves of the rows the other way round, where they lie so: scale and shift of a modulated norm."""
    if not rule.halves_swapped:
        return factors
    return replace(
        factors, B=_turn(factors.B), magnitude=_turn_vector(factors.magnitude), bias=_turn_vector(factors.bias)
    )


def _turn_vector(vector: Tensor | None) -> Tensor | None:
    return vector if vector is None or vector.ndim > 1 else _turn(vector)


def _turn(rows: Tensor) -> Tensor:
    half = rows.shape[0] // 2
    return torch.cat([rows[half:], rows[:half]])


def _together(found: dict[str, LoraFactors], rest: Mapping[str, LoraFactors]) -> dict[str, LoraFactors]:
    return dict(sorted((found | dict(rest)).items()))


def _known(name: str | None, path: str, where: str) -> str:
    if name is None:
        raise _unknown(path, where)
    return name


def _unknown(path: str, where: str) -> RefusedError:
    return RefusedError(f"module {path} has no name that adaptzip knows in {where}", hint=_HINT)
