"""Adapters of one image model under the same names, where their files call and cut its layers otherwise."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from adaptzip.checkpoints._image.names import DENOISERS
from adaptzip.checkpoints._image.pipelines import in_pipeline
from adaptzip.checkpoints._image.spellings import in_clip, named_by_diffusers
from adaptzip.checkpoints._registry import conventions
from adaptzip.core.adapter import Adapter
from adaptzip.errors import RefusedError


def aligned(*adapters: Adapter) -> tuple[Adapter, ...]:
    """All with diffusers' names where their own differ, else as they are.

    A fused layer comes apart into the layers that diffusers has for it, so that nothing is rounded. Extras keep their
    names, and so does an adapter whose layers have no known name in diffusers.
    """
    pipelines = [conventions(adapter.meta.dialect).pipelines for adapter in adapters]
    if any(pipelines) and not all(pipelines):
        adapters = tuple(map(_in_pipeline, adapters))
    spellings = {frozenset(_denoisers(adapter)) for adapter in adapters} - {frozenset()}
    if any(pipelines) and len(spellings) > 1:
        adapters = tuple(map(_in_diffusers, adapters))
    names = {name for adapter in adapters for name in adapter.modules}
    return tuple(_as_in(names, adapter) for adapter in adapters)


def _as_in(others: Collection[str], adapter: Adapter) -> Adapter:
    """With the `text_model` before layers of CLIP, which transformers 5 leaves out, where one of the others has it."""
    names = {name: in_clip(name) for name in adapter.modules}
    if not any(name != there and there in others for name, there in names.items()):
        return adapter
    modules = {names[name]: factors for name, factors in adapter.modules.items()}
    return replace(adapter, modules=dict(sorted(modules.items())))


def _in_pipeline(adapter: Adapter) -> Adapter:
    if conventions(adapter.meta.dialect).pipelines:
        return adapter
    try:
        return in_pipeline(adapter, "the other adapter")
    except RefusedError:
        return adapter


def _denoisers(adapter: Adapter) -> set[str]:
    return {name.partition(".")[0] for name in adapter.modules} & set(DENOISERS)


def _in_diffusers(adapter: Adapter) -> Adapter:
    found = named_by_diffusers(adapter.modules)
    return adapter if found is None else replace(adapter, modules=found)
