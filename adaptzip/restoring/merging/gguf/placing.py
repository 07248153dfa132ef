"""Where an adapter's modules lie in a GGUF file, and how their rows do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from adaptzip.checkpoints._gguf.architectures import EMBEDDING, heads_of, permuted, tensor_name
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.restoring.merging.edits import Update
from adaptzip.restoring.merging.gguf.base import BaseTensor, GgufBase

_HEAD = "output.weight"
_OTHERWISE = "merge into the model in transformers' form, and convert that with llama.cpp's own script"
_WRONG_BASE = "is this the base model that the adapter was trained on?"
_SPELLINGS = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head", "lm_head"),
)
"""How names of the modules of a model that sees images as well begin, and of its language model alone."""


def place(adapter: Adapter, base: GgufBase, scale: float) -> Mapping[str, tuple[str, Update]]:
    """The module and the update of each tensor that an adapter changes.

    Args:
        scale: multiplies every update.

    Raises:
        BaseModelError: if the base lacks a tensor, or has it in another shape.
        RefusedError: if the adapter has what no tensor of the base has a place for, or more than updates.
    """
    _check_alone(adapter, base)
    found: dict[str, tuple[str, Update]] = {}
    for module, factors in adapter.modules.items():
        tensor = _tensor(base, module, factors)
        if tensor.name in found:
            raise RefusedError(
                f"the modules {found[tensor.name][0]} and {module} are both {tensor.name} in {base.path}"
            )
        found[tensor.name] = module, _update(base, module, tensor, replace(factors, scaling=factors.scaling * scale))
    return found


def _check_alone(adapter: Adapter, base: GgufBase) -> None:
    """Raises: RefusedError: if there is more in an adapter than updates of modules."""
    effects = adapter.resolved
    if effects.layers:
        raise RefusedError(f"{base.path}: layer_replication makes other layers than it has", hint=_OTHERWISE)
    for key in adapter.extras:
        if effects.extras[key].role != "ignore":
            raise RefusedError(
                f"{base.path}: updates alone are merged into GGUF, and the adapter brings {key}", hint=_OTHERWISE
            )


def _tensor(base: GgufBase, module: str, factors: LoraFactors) -> BaseTensor:
    architecture = base.architecture
    name = next((found for spelling in _spelled(module) if (found := tensor_name(architecture, spelling))), None)
    if name is None:
        raise RefusedError(
            f"{base.path}: the module {module} has no tensor of its own in {architecture.name}", hint=_OTHERWISE
        )
    if (what := _cannot(name, factors)) is not None:
        raise RefusedError(f"{base.path}: {what} of the module {module} cannot be merged into GGUF", hint=_OTHERWISE)
    tensor = base.tensors.get(name)
    if name in (EMBEDDING, _HEAD) and _HEAD not in base.tensors:
        raise RefusedError(
            f"{base.path}: has one tensor for its embedding and its head, of which the adapter changes {module}",
            hint=_OTHERWISE,
        )
    if tensor is None:
        layer = re.match(r"blk\.\d+\.", name)
        near = [other for other in base.tensors if layer is not None and other.startswith(layer[0])]
        told = f"only {', '.join(sorted(near))}" if near else "and nothing of that layer"
        raise BaseModelError(f"{base.path}: has no {name} for the module {module}, {told}", hint=_WRONG_BASE)
    if (scales := f"{name.removesuffix('.weight')}.scale") in base.tensors:
        raise RefusedError(f"{base.path}: {name} is multiplied by {scales}, so that no update fits it", hint=_OTHERWISE)
    return tensor


def _spelled(module: str) -> Iterator[str]:
    yield module
    for other, own in _SPELLINGS:
        if module.startswith(other):
            yield own + module.removeprefix(other)


def _cannot(name: str, factors: LoraFactors) -> str | None:
    """What of an update has no place here."""
    if factors.layout not in ("linear", "transposed", "embedding") or (factors.layout == "embedding") != (
        name == EMBEDDING
    ):
        return f"an update of the layout {factors.layout!r}"
    if factors.bias is not None:
        return "the LoRA bias"
    if factors.magnitude is not None and (factors.magnitude.ndim > 1 or factors.layout == "embedding"):
        return "a DoRA magnitude for each input"
    return None


def _update(base: GgufBase, module: str, tensor: BaseTensor, factors: LoraFactors) -> Update:
    """The update of a tensor, with its rows as llama.cpp has them; what transformers stores turned lies as all else."""
    layout: Layout = "embedding" if factors.layout == "embedding" else "linear"
    out, width = factors.shape
    expected = (width, out) if layout == "embedding" else (out, width)
    if tensor.shape != expected:
        raise BaseModelError(
            f"{base.path}: {tensor.name} is {list(tensor.shape)}, the adapter's {module} expects {list(expected)}",
            hint=_WRONG_BASE,
        )
    count = heads_of(module, base.heads()) if base.architecture.permuted and heads_of(module, (1, 1)) else None
    if count is None:
        return Update(factors, layout)
    if out % (2 * count):
        raise BaseModelError(
            f"{base.path}: {tensor.name} has {out} rows, which are not of {count} heads", hint=_WRONG_BASE
        )
    magnitude = factors.magnitude
    if magnitude is not None:
        magnitude = permuted(magnitude[:, None], count)[:, 0]
    return Update(replace(factors, B=permuted(factors.B, count).contiguous(), magnitude=magnitude), layout)
