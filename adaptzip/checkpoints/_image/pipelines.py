"""Between adapters of one model, as PEFT has them, and adapters of an image pipeline's components."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from adaptzip.checkpoints._image import unet
from adaptzip.checkpoints._image.families import FAMILIES
from adaptzip.checkpoints._image.names import COMPONENTS, ORIGINAL, TRANSFORMER, UNET
from adaptzip.checkpoints._image.spellings import to_diffusers_where_known
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
    folder = re.split(r"[\\/]", (adapter.meta.base_model or "").rstrip("\\/"))[-1]
    component = folder if folder in COMPONENTS and folder != ORIGINAL else _component(adapter)
    if component is None:
        raise RefusedError(
            f"{_base(adapter)} is no component of an image pipeline, which {title} is for",
            hint="write it with --as peft; for a component, name the base by its folder: --base-name "
            "REPOSITORY/text_encoder_2",
        )
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


def _base(adapter: Adapter) -> str:
    named = adapter.meta.base_model
    return "the adapter names no base model, and" if named is None else f"the adapter's base model {named}"


def _component(adapter: Adapter) -> str | None:
    firsts = {name.partition(".")[0] for name in adapter.modules}
    if firsts & set(UNET):
        return "unet"
    family = next((family for family in FAMILIES if family.diffusers(adapter.modules)), None)
    if family is not None or firsts & set(TRANSFORMER):
        return "transformer" if family is None else family.component
    if any(map(unet.is_original, adapter.modules)) or any(family.original(adapter.modules) for family in FAMILIES):
        return ORIGINAL
    return "text_encoder" if all(_TEXT.match(name) for name in adapter.modules) else None


def out_of_pipeline(adapter: Adapter, title: str) -> Adapter:
    """An adapter of one component alone, as that of a single model, in diffusers' names where these are known.

    Raises:
        RefusedError: if it is of several components.
    """
    components = sorted({name.partition(".")[0] for name in adapter.modules})
    if len(components) > 1:
        raise RefusedError(
            f"the adapter is of several models, {', '.join(components)}, and {title} is for one",
            hint="write it with --as diffusers, --as kohya or --as comfyui",
        )
    # Tensors beside the factors have the original names as well, of which diffusers' are not known.
    modules = adapter.modules if adapter.extras else to_diffusers_where_known(adapter.modules)
    return _renamed(replace(adapter, modules=modules), lambda name: name.partition(".")[2])
