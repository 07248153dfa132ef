"""An adapter's modules under the names of diffusers' models, or of the original implementation's."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from adaptzip.checkpoints._image import unet
from adaptzip.checkpoints._image.beside import Layer, Respelled, turned_factors
from adaptzip.checkpoints._image.families import FAMILIES, SAME
from adaptzip.checkpoints._image.fusing import fuse_rows, split_rows
from adaptzip.checkpoints._image.names import DENOISERS, ORIGINAL, SECOND, denoiser
from adaptzip.checkpoints._image.rules import Family, Rule, numbered
from adaptzip.checkpoints._image.telling import diffusers_family, original_family
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import RefusedError

Modules = Mapping[str, LoraFactors]
_CLIP = re.compile(r"^((?:text_encoder(?:_2)?\.)?)(encoder\.layers\.\d+\.(?:self_attn|mlp)\.)")
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
        if all(map(family.of_diffusers, paths)):
            return "transformer"
        if all(map(family.of_original, paths)):
            return ORIGINAL
    return None


def to_original(modules: Modules, *, keep_sd1: bool = False) -> dict[str, LoraFactors]:
    """The modules of `in_original`."""
    return dict(in_original(modules, keep_sd1=keep_sd1).modules)


def in_original(modules: Modules, *, keep_sd1: bool = False) -> Respelled:
    """The same update of modules as the original implementation calls and cuts them; those of text encoders stay, but
    that CLIP's have the `text_model` before them that transformers 5 leaves out.

    Args:
        modules: by name.
        keep_sd1: call a UNet of Stable Diffusion 1 as diffusers does.

    Raises:
        RefusedError: if a module has no known name there.
    """
    modules = {in_clip(name): factors for name, factors in modules.items()}
    if keep_sd1 and (kept := _sd1_in_diffusers(modules)) is not None:
        return kept
    components = set(DENOISERS) - {ORIGINAL}
    ours, rest = _denoiser(modules, components)
    if not ours or (keep_sd1 and "unet" in _components(modules) and not _is_sdxl(ours)):
        return Respelled(modules, lambda name: Layer(in_clip(name)))
    found, layer = _cut(ours, _components(modules))
    component = denoiser(found)

    def named(name: str) -> Layer | None:
        first, _, path = name.partition(".")
        if first not in components:
            return Layer(in_clip(name))
        there = layer(path)
        return there and replace(there, name=f"{component}.{there.name}")

    return Respelled(_together({f"{component}.{path}": factors for path, factors in found.items()}, rest), named)


def in_clip(name: str) -> str:
    """A layer of CLIP, within a pipeline or alone, as trainers know it: with a `text_model`; any other name stays."""
    return _CLIP.sub(r"\1text_model.\2", name)


def _cut(paths: Modules, components: set[str]) -> tuple[Modules, Callable[[str], Layer | None]]:
    """Layers of a denoiser in diffusers' names as the original has them, and the names of others of its layers."""
    if "unet" in components:
        deep = _is_sdxl(paths)

        def layer(path: str) -> Layer | None:
            name = unet.to_original(path, attention_below=deep)
            return None if name is None else Layer(name)

        where = "the original model"
        return {_known(unet.to_original(p, attention_below=deep), p, where): m for p, m in paths.items()}, layer
    if any(map(SAME.match, paths)):
        return paths, Layer
    family = diffusers_family(paths)
    if family is None:
        raise _unknown(next(iter(paths)), "the original model")
    return _as_one(family, paths), lambda path: _alone(family, path, paths)


def _alone(family: Family, path: str, modules: Modules) -> Layer | None:
    """The original name of a layer that is one there as well."""
    rule, _ = family.of_diffusers(path) or (None, 0)
    if rule is None or len(rule.diffusers) > 1:
        return None
    if rule.swapped_ratio is not None and path not in modules:
        return None  # Its shape would tell.
    swapped = rule.swaps(modules[path].shape) if path in modules else rule.halves_swapped
    return Layer(rule.original.replace("#", numbered(path)[1]), swapped)


def _sd1_in_diffusers(modules: Modules) -> Respelled | None:
    """With diffusers' names for a UNet of Stable Diffusion 1 that has original ones; None for any other model."""
    if not any(unet.is_original(path) for path in _denoiser(modules, {ORIGINAL})[0]):
        return None
    found = to_diffusers(modules)
    if _is_sdxl(_denoiser(found, {"unet"})[0]):
        return None

    def layer(name: str) -> Layer | None:
        first, _, path = name.partition(".")
        if first != ORIGINAL:
            return Layer(in_clip(name))
        there = unet.to_diffusers(path)
        return None if there is None else Layer(f"unet.{there}")

    return Respelled(found, layer)


def _components(modules: Modules) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def _denoiser(modules: Modules, components: set[str]) -> tuple[dict[str, LoraFactors], dict[str, LoraFactors]]:
    """The modules of these components by path, and all others by name."""
    ours: dict[str, LoraFactors] = {}
    rest: dict[str, LoraFactors] = {}
    found = sorted(_components(modules) & set(DENOISERS))
    if len(found) > 1:
        raise RefusedError(
            f"the adapter is of several denoisers, {', '.join(found)}, which have one name in the other dialect",
            hint="write it in the dialect that it came in, or with `as_='diffusers'`",
        )
    if found == [SECOND] and SECOND in components:
        raise RefusedError(
            f"module {next(name for name in modules if name.startswith(SECOND))} is of a pipeline's second denoiser, "
            "which has the name of the first in the other dialect",
            hint="write it with `as_='diffusers'`",
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
        rule, number = family.of_original(path), numbered(path)[1]
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
        part, number = family.of_diffusers(path), numbered(path)[1]
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
    return turned_factors(factors) if rule.swaps(factors.shape) else factors


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
