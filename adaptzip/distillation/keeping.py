"""What a file keeps of an adapter's extras, on the model that is trained: the file may keep them in fewer bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.core.adapter import Adapter
from adaptzip.core.comparing import same_bits
from adaptzip.core.compressed import Compressed
from adaptzip.distillation.student import Guest, magnitudes_of
from adaptzip.errors import RefusedError
from adaptzip.models.live.running import Loading, load_bare
from adaptzip.models.live.unknown import every_parameter
from adaptzip.restoring.extras import extras_of


def as_kept(teacher: Adapter, plan: Compressed) -> Adapter:
    """The teacher with the extras, DoRA magnitudes and biases of a file made of it, and with its own factors."""
    extras, magnitudes, biases = extras_of(plan)
    modules = {
        # The file's biases have their scale within.
        name: replace(m, bias=biases.get(name), magnitude=magnitudes.get(name), scaling=1.0)
        for name, m in teacher.modules.items()
    }
    return replace(teacher, modules=modules, extras=extras)


def student_of(guest: Guest, teacher: Adapter, plan: Compressed, base: Path) -> Guest:
    """The model that is trained: the teacher's, with what the file keeps of the extras where that differs.

    Raises:
        RefusedError: if the file keeps something in fewer bits that is no parameter of the model.
    """
    kept = as_kept(teacher, plan)
    if _alike(teacher, kept):
        return guest
    model, device = guest.loaded.model, next(guest.loaded.model.parameters()).device
    other = load_bare(base, kept, device, loading=Loading(guest.loaded.kind)).model
    places, others = every_parameter(model), every_parameter(other)
    theirs, ours = model.state_dict(), other.state_dict()
    for name in sorted(theirs.keys() - places.keys()):
        if not torch.equal(theirs[name], ours[name]):
            raise RefusedError(f"the extra {name} is no parameter", hint="keep it as it is: `extras='lossless'`")
    changed = {
        parameter: others[name].detach()
        for name, parameter in places.items()
        if not torch.equal(parameter, others[name])
    }
    magnitudes = {name: tensor.to(device) for name, tensor in magnitudes_of(kept.modules).items()}
    return replace(guest, kept=changed, magnitudes=magnitudes)


def _alike(teacher: Adapter, kept: Adapter) -> bool:
    """Whether nothing but factors differs."""

    def biases(adapter: Adapter) -> dict[str, Tensor]:
        modules = adapter.modules.items()
        return {name: m.bias.float() * m.scaling for name, m in modules if m.bias is not None}

    pairs = (
        (teacher.extras, kept.extras),
        (magnitudes_of(teacher.modules), magnitudes_of(kept.modules)),
        (biases(teacher), biases(kept)),
    )
    return all(_equal(ours, theirs) for ours, theirs in pairs)


def _equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(same_bits(ours[name], tensor) for name, tensor in theirs.items())
