"""Two pipelines of several models: which are compared, and one adapter of what is found in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from adaptzip.checkpoints import resolved
from adaptzip.checkpoints._image.names import COMPONENTS
from adaptzip.checkpoints._image.pipelines import as_component
from adaptzip.checkpoints._trained import same
from adaptzip.core.adapter import Adapter
from adaptzip.core.meta import Meta
from adaptzip.errors import BaseModelError, warn
from adaptzip.models.folder import BaseModel
from adaptzip.models.pipelines import components_of, is_pipeline
from adaptzip.restoring.extracting.pairing import Pairing

ALONE = ""
"""In place of a component's name, for a model that is none."""


def matched(base: Path, tuned: Path) -> dict[str, tuple[BaseModel, BaseModel]]:
    """The models to compare, by component; of the components of a pipeline those that a LoRA can change.

    Raises:
        BaseModelError: if a model cannot be read, only one of the two is a pipeline, or one lacks a component.
        RefusedError: if a model is quantised.

    Warns with an AdaptzipWarning of any other component that differs.
    """
    one, other = models_of(base), models_of(tuned)
    if (ALONE in one) != (ALONE in other):
        pipeline, model = (base, tuned) if ALONE in other else (tuned, base)
        raise BaseModelError(
            f"{pipeline}: is a pipeline of several models, and {model} is one model",
            hint="give two pipelines, or the folders of one component in both",
        )
    for here, there, path in ((one, other, tuned), (other, one, base)):
        lacking = sorted(here.keys() - there.keys())
        if lacking:
            raise BaseModelError(
                f"{path}: lacks the component {lacking[0]}, which the other pipeline has",
                hint="give the pipeline that the model was tuned from",
            )
    for name in one.keys() - {*COMPONENTS, ALONE}:
        if not _is_same(one[name], other[name]):
            warn(f"{other[name].path}: differs from the base's {name}, which no LoRA changes: it is left out")
    return {name: (one[name], other[name]) for name in (ALONE, *COMPONENTS) if name in one}


def joined(adapters: Mapping[str, Adapter], base_name: str | None) -> Adapter:
    """One adapter of those of a pipeline's components, in the names of diffusers; the only one as it is."""
    if ALONE in adapters:
        return adapters[ALONE]
    parts = [as_component(adapter, component) for component, adapter in adapters.items()]
    modules = {name: factors for part in parts for name, factors in part.modules.items()}
    extras = {key: tensor for part in parts for key, tensor in part.extras.items()}
    return resolved(Adapter(dict(sorted(modules.items())), extras, Meta("diffusers", base_model=base_name)))


def with_differences(adapter: Adapter, base: BaseModel, pairing: Pairing) -> Adapter:
    """What is kept whole as its difference from the base, which is what the files of image models hold.

    Raises:
        BaseModelError: if the base has no such tensor.
    """
    before = {whole.name: whole.before for whole in pairing.wholes}
    extras = {}
    for key, tensor in adapter.extras.items():
        own = adapter.resolved.extras[key].tensor
        name = before.get(own)
        if name is None or base.stored(name).shape != tensor.shape:
            raise BaseModelError(
                f"{base.path}: lacks {own} {list(tensor.shape)}, which the tuned pipeline has",
                hint="give the pipeline that the model was tuned from",
            )
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        extras[key] = tensor.to(dtype) - base.read(name).to(dtype)
    return replace(adapter, extras=extras)


def models_of(path: Path) -> Mapping[str, BaseModel]:
    """The models in a folder by component; one that is no pipeline's under `ALONE`.

    Raises:
        BaseModelError: if one cannot be read.
        RefusedError: if one is quantised.
    """
    return components_of(path) if is_pipeline(path) else {ALONE: BaseModel.open(path)}


def _is_same(one: BaseModel, other: BaseModel) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        same(other.read(name), one.read(name)) for name in one.tensors
    )
