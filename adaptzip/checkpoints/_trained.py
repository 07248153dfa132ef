"""What was trained of a whole model beside its factors: what differs from the base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._parts import needed_base
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.effects import HEAD_NAMES
from adaptzip.errors import RefusedError


@dataclass(frozen=True, eq=False)
class Trained:
    """What lies beside the factors.

    Attributes:
        extras: the trained tensors by PEFT's keys.
        heads: where the base lacks tensors of a module, such modules and the usual heads, by name; () where it lacks
            none, or is not there.
    """

    extras: Mapping[str, Tensor]
    heads: tuple[str, ...] = ()


def trained(source: Checkpoint, others: Mapping[str, str], modules: Mapping[str, LoraFactors]) -> Trained:
    """The trained ones of the tensors beside the factors; all of them where no module's frozen weight is among them.

    Args:
        others: their keys by the model's name for them.
        modules: the factors by module.

    Raises:
        RefusedError: if it is a whole model and the base is missing, or is another than the one it was trained on.
        BaseModelError: if the base lacks a module.
    """
    if not any(f"{name}.weight" in others for name in modules):
        return Trained({PREFIX + name: source.tensors[key] for name, key in others.items()})
    base = needed_base(source, "to tell what was trained of the whole model in it").named_by(list(modules))
    extras, lacking = {}, set()
    for name, key in others.items():
        tensor, stored = source.tensors[key], base.read(name)
        if stored is None:
            if not is_constant(name, tensor):
                extras[PREFIX + name] = tensor
                lacking.add(name.partition(".")[0])
        elif not same(tensor, stored) and not _holds_update(source, name, tensor, stored, modules):
            extras[PREFIX + name] = tensor
    brought = {part for key in extras for part in key.removeprefix(PREFIX).split(".")}
    heads = sorted(lacking | (brought & set(HEAD_NAMES))) if lacking - set(HEAD_NAMES) else ()
    return Trained(extras, tuple(heads))


def same(tensor: Tensor, stored: Tensor) -> bool:
    """Whether a tensor is the base's, in its own dtype, which may be the narrower or the wider one."""
    return tensor.shape == stored.shape and torch.equal(tensor, stored.to(tensor.dtype))


def _holds_update(
    source: Checkpoint, name: str, tensor: Tensor, stored: Tensor, modules: Mapping[str, LoraFactors]
) -> bool:
    """Whether a tensor is the frozen weight of a module with its update added, as loralib's layers are to be run.

    Raises:
        RefusedError: if it is such a weight and another than that.
    """
    module = modules.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
    if module is None:
        return False
    if tensor.shape == stored.shape and tensor.is_floating_point():
        change, delta = tensor.double() - stored.double(), module.weight_delta().double()
        rounding = 4 * torch.finfo(tensor.dtype).eps * float(stored.double().norm()) + 1e-5 * float(delta.norm())
        turned = (delta, delta.T) if tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1] else (delta,)
        if any(float((change - added).norm()) <= rounding < 0.1 * float(added.norm()) for added in turned):
            return True
    raise RefusedError(
        f"{source.weights}: {name} is another than the base's, although a module with factors has it frozen",
        hint="give the base model that it was trained on with `base=DIR`",
    )


def is_constant(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is a buffer of numbers that a model makes itself: positions, types, and masks of attention."""
    leaf = name.rpartition(".")[2]
    if leaf in ("position_ids", "token_type_ids") and not tensor.is_floating_point():
        flat = tensor.reshape(-1)
        return not bool(flat.any()) if leaf == "token_type_ids" else torch.equal(flat, torch.arange(len(flat)).to(flat))
    if leaf == "bias" and tensor.ndim == 4 and tensor.shape[2] == tensor.shape[3]:
        return torch.equal(tensor != 0, torch.ones_like(tensor, dtype=torch.bool).tril())
    return leaf == "masked_bias" and tensor.numel() == 1
