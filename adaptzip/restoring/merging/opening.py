"""Opening a merged model as transformers would, without its weights, before it is published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.errors import BaseModelError, CheckFailedError
from adaptzip.models.folder import BaseModel
from adaptzip.models.guests import DryLoad, dry_load
from adaptzip.models.shards import StoredTensor
from adaptzip.restoring.merging.plan import MergePlan, listed


def check_opens(plan: MergePlan, folder: Path) -> tuple[str, ...]:
    """Check that transformers would load what the plan makes, by the config.json in `folder`.

    Where transformers is not installed, or does not know or cannot open the base model itself, nothing is checked.

    Returns:
        What the user should know, a line each.

    Raises:
        BaseModelError: if transformers would not load the merged model although it loads the base.
    """
    config = plan.base.config if plan.config is None else plan.config
    if not config.get("architectures") or not config.get("model_type"):
        return ()
    try:
        found = dry_load(folder, _empty(plan.tensors))
    except BaseModelError as error:
        if _opened(plan.base) is None:
            return ()
        raise BaseModelError(
            f"{plan.base.path}: with this adapter merged, {str(error).partition(': ')[2]}",
            hint="is this the base model that the adapter was trained on?",
        ) from error
    if found is None or not (found.mismatched or found.missing or found.unexpected):
        return ()
    return tuple(_judged(plan, found, _opened(plan.base)))


def check_written(plan: MergePlan, folder: Path) -> None:
    """Read the headers and the index in `folder` back and compare them with the plan.

    Raises:
        BaseModelError: if they cannot be read.
        CheckFailedError: if a tensor is missing, or has another dtype or shape.
    """
    check_tensors(plan, BaseModel.open(folder, quantised="stored"))


def check_tensors(plan: MergePlan, written: BaseModel) -> None:
    """Compare what the headers of a written model say with the plan.

    Raises:
        CheckFailedError: if a tensor is missing, or has another dtype or shape.
    """
    found = {name: _form(written.stored(name)) for name in written.tensors}
    expected = {name: _form(tensor) for name, tensor in plan.tensors.items()}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))
        raise CheckFailedError(f"{written.path}: {listed(wrong)} were not written as planned; nothing was published")


def _judged(plan: MergePlan, found: DryLoad, base: DryLoad | None) -> Iterator[str]:
    for name, (brought, expected) in found.mismatched.items():
        if base is not None and name in base.mismatched:
            continue
        raise BaseModelError(
            f"{plan.base.path}: merged, {name} would be {list(brought)}, but transformers' {found.model_class} "
            f"has {list(expected)} there by config.json",
            hint="is this the base model that the adapter was trained on?",
        )
    same = base is not None and base.model_class == found.model_class
    made_up = sorted(found.missing - base.missing if same and base is not None else found.missing)
    if made_up and same:
        raise BaseModelError(
            f"{plan.base.path}: merged, {listed(made_up)} would be missing, which transformers' {found.model_class} "
            "finds in the base",
            hint="is this the base model that the adapter was trained on?",
        )
    if made_up:
        yield (
            f"{listed(made_up)} are in neither base nor adapter: transformers' {found.model_class} starts with random "
            "numbers there, as it did when the adapter was trained"
        )
    homeless = sorted(found.unexpected & set(_changed(plan)))
    if homeless:
        yield (
            f"{listed(homeless)} have no place in {found.model_class}, which config.json names: load the model with "
            "the class that the adapter was trained on"
        )


def _opened(base: BaseModel) -> DryLoad | None:
    try:
        return dry_load(base.path, _empty({name: base.stored(name) for name in base.tensors}))
    except BaseModelError:
        return None


def _changed(plan: MergePlan) -> Iterable[str]:
    return (output.stored.name for shard in plan.outputs for output in shard if output.edits)


def _empty(tensors: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
    return {name: torch.empty(t.shape, dtype=t.dtype, device="meta") for name, t in tensors.items()}


def _form(tensor: StoredTensor) -> tuple[torch.dtype, tuple[int, ...]]:
    return tensor.dtype, tuple(tensor.shape)
