"""An adapter's modules under the names of diffusers' models, or of the original implementation's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from adaptzip.checkpoints._image import unet
from adaptzip.checkpoints._image.families import FAMILIES, SAME
from adaptzip.checkpoints._image.fusing import fuse_rows, split_rows
from adaptzip.checkpoints._image.names import DENOISERS, ORIGINAL, denoiser
from adaptzip.checkpoints._image.rules import Family, Rule, numbered
from adaptzip.checkpoints._image.telling import diffusers_family, original_family
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import RefusedError

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
    component = "transformer"
    if any(unet.is_original(path) for path in ours):
        component = "unet"
        found = {_known(unet.to_diffusers(path), path, "diffusers"): factors for path, factors in ours.items()}
    elif any(map(SAME.match, ours)):
        found = dict(ours)
    elif (family := original_family(ours)) is not None:
        found = _apart(family, ours)
    else:
        raise _unknown(next(iter(ours)), "diffusers")
    return _together({f"{component}.{path}": factors for path, factors in found.items()}, rest)


def named_by_diffusers(modules: Modules) -> dict[str, LoraFactors] | None:
    """As `to_diffusers`; None where a module has no known name there."""
    try:
        return to_diffusers(modules)
    except RefusedError:
        return None


def spelling_of_denoiser(paths: Modules) -> str | None:
    """The component that layers without one are of, where all have a name of one model; else None."""
    if all(map(unet.is_original, paths)) or all(map(SAME.match, paths)):
        return ORIGINAL
    for family in FAMILIES:
        if all(numbered(path)[0] in family.parts or path in family.parts for path in paths):
            return "transformer"
        if all(numbered(path)[0] in family.originals or path in family.originals for path in paths):
            return ORIGINAL
    return None


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
    if unets:
        if keep_sd1 and not _is_sdxl(ours):
            return dict(modules)
        deep = _is_sdxl(ours)
        found = {
            _known(unet.to_original(path, attention_below=deep), path, "the original model"): factors
            for path, factors in ours.items()
        }
    elif any(map(SAME.match, ours)):
        found = dict(ours)
    elif (family := diffusers_family(ours)) is not None:
        found = _as_one(family, ours)
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
        pattern, number = numbered(path)
        rule = family.originals.get(pattern) or family.originals.get(path)
        if rule is None:
            raise _unknown(path, "diffusers")
        parts = split_rows(path, _swapped(rule, factors), rule.shares)
        some = any(bool(part.B.any()) for part in parts)
        for name, part in zip(rule.diffusers, parts, strict=True):
            # XLabs' files have rows of zeros for layers that they leave as they are.
            kept = bool(part.B.any()) or part.magnitude is not None or part.bias is not None
            if len(parts) == 1 or not some or kept:
                found[name.replace("#", number)] = part
    return found


def _as_one(family: Family, modules: Modules) -> dict[str, LoraFactors]:
    groups: dict[str, tuple[Rule, dict[int, LoraFactors]]] = {}
    for path, factors in modules.items():
        pattern, number = numbered(path)
        part = family.parts.get(pattern) or family.parts.get(path)
        if part is None:
            raise _unknown(path, "the original model")
        rule, place = part
        groups.setdefault(rule.original.replace("#", number), (rule, {}))[1][place] = factors
    return {
        path: _swapped(rule, fuse_rows(path, dict(sorted(parts.items())), rule.shares))
        for path, (rule, parts) in groups.items()
    }


def _swapped(rule: Rule, factors: LoraFactors) -> LoraFactors:
    """With the halves of the rows the other way round, where they lie so: scale and shift of a modulated norm."""
    if not rule.swaps(factors.shape):
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
    known = ", ".join(family.title for family in FAMILIES)
    return RefusedError(
        f"module {path} has no name that adaptzip knows in {where}, expected a layer of Stable Diffusion 1, 2 or XL, "
        f"HiDream, {known}",
        hint=_HINT,
    )
