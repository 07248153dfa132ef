"""Between adapters of one model, as PEFT has them, and adapters of an image pipeline's components."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from adaptzip.checkpoints._image.names import COMPONENTS, ORIGINAL, TRANSFORMER, UNET
from adaptzip.checkpoints._image.spellings import named_by_diffusers, spelling_of_denoiser
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.core.adapter import Adapter
from adaptzip.errors import RefusedError

_TEXT = re.compile(
    r"^(text_model\.)?encoder\.layers\.\d+\.self_attn\.|^text_model\.encoder\.layers\.\d+\.mlp\.|^encoder\.block\.\d+\."
)


def in_pipeline(adapter: Adapter, title: str) -> Adapter:
    """An adapter of one model as that of a component: the one in whose folder its base model lies, else told by names.

    Raises:
        RefusedError: if neither tells.
    """
    if not adapter.modules:
        return adapter
    folder = re.split(r"[\\/]", (adapter.meta.base_model or "").rstrip("\\/"))[-1]
    component = folder if folder in COMPONENTS and folder != ORIGINAL else _component(adapter)
    if component is None:
        base = (
            f"its base model {adapter.meta.base_model} tells none"
            if adapter.meta.base_model
            else "no base model is named"
        )
        raise RefusedError(
            f"module {next(iter(adapter.modules))} is of no component of an image pipeline that adaptzip knows, which "
            f"{title} is for, and {base}",
            hint="write it with `as_='peft'`; for a component, name the base by its folder: "
            "`base_name='REPOSITORY/text_encoder_2'`",
        )
    return as_component(adapter, component)


def as_component(adapter: Adapter, component: str) -> Adapter:
    """An adapter of one model as that of a pipeline's component."""
    return _renamed(adapter, lambda name: f"{component}.{name}")


def _renamed(adapter: Adapter, rename: Callable[[str], str]) -> Adapter:
    """With other names of its modules, extras and the tensors that these are meant for."""
    told = adapter.resolved

    def key(old: str) -> str:
        return PREFIX + rename(old.removeprefix(PREFIX))

    return replace(
        adapter,
        modules={rename(name): factors for name, factors in adapter.modules.items()},
        extras={key(old): tensor for old, tensor in adapter.extras.items()},
        effects=replace(
            told,
            extras={key(old): replace(effect, tensor=rename(effect.tensor)) for old, effect in told.extras.items()},
        ),
    )


def by_component(adapter: Adapter) -> dict[str, Adapter]:
    """What an adapter of a pipeline does to each of its components, as an adapter of that model alone."""
    effects = adapter.resolved.extras
    first = {key: effects[key].tensor.partition(".")[0] for key in adapter.extras}
    found = {}
    for component in sorted({name.partition(".")[0] for name in adapter.modules} | set(first.values())):
        begin = f"{component}."
        part = replace(
            adapter,
            modules={name: factors for name, factors in adapter.modules.items() if name.startswith(begin)},
            extras={key: tensor for key, tensor in adapter.extras.items() if first[key] == component},
            effects=replace(
                adapter.resolved, extras={key: effects[key] for key in adapter.extras if first[key] == component}
            ),
        )
        found[component] = _renamed(part, partial(_without, begin))
    return found


def _without(begin: str, name: str) -> str:
    return name.removeprefix(begin)


def _component(adapter: Adapter) -> str | None:
    firsts = {name.partition(".")[0] for name in adapter.modules}
    if firsts & set(UNET):
        return "unet"
    if firsts & set(TRANSFORMER):
        return "transformer"
    if all(_TEXT.match(name) for name in adapter.modules):
        return "text_encoder"
    return spelling_of_denoiser(adapter.modules)


def out_of_pipeline(adapter: Adapter, title: str) -> Adapter:
    """An adapter of one component alone, as that of a single model: diffusers', where its layers have names there.

    Tensors beside the factors have names in one spelling alone, so that with them the adapter keeps its own.

    Raises:
        RefusedError: if it is of several components.
    """
    components = sorted({name.partition(".")[0] for name in adapter.modules})
    if len(components) > 1:
        raise RefusedError(
            f"the adapter is of several models, {', '.join(components)}, and {title} is for one",
            hint="write it with `as_='diffusers'`, `as_='kohya'` or `as_='comfyui'`",
        )
    if components == [ORIGINAL] and not adapter.extras:
        found = named_by_diffusers(adapter.modules)
        adapter = adapter if found is None else replace(adapter, modules=found)
    begin = f"{next(iter(adapter.modules)).partition('.')[0]}."
    return _renamed(adapter, lambda name: name.removeprefix(begin))
