"""Holding what was written against what was to be written, before anybody sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from adaptzip.checkpoints._base import WriteOptions
from adaptzip.checkpoints._effects import IN_MEMORY
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._registry import conventions
from adaptzip.checkpoints._rescaling import pad
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.comparing import diff, same_bits
from adaptzip.errors import CheckFailedError

_HINT = "nothing was written; please report it, with the adapter"
_KINDS = {"transposed": "linear", "expert_transposed": "expert"}
"""Layouts that one configuration does not tell apart; PEFT asks the base model."""
_CODINGS = {"q8_0": 1 / 40}
"""Largest relative error of a block of 32 numbers: sqrt(32) / 254, and what rounding its scale to float16 adds."""


def confirm(wanted: Adapter, found: Adapter, options: WriteOptions) -> None:
    """Check that an adapter that was read back is the one that was to be written.

    Modules must be the same. Factors that kept their dtype and scale must be the same bit for bit, up to ranks of
    zeros; others give the same update within the rounding of the dtype that they were written in. Everything else must
    be the same, and every module must be one that the program which the dialect is of loads.

    Args:
        wanted: what was to be written; a module without any update may be missing in what was.
        found: what the dialect's reader makes of the files.
        options: how they were written.

    Raises:
        CheckFailedError: naming the module or tensor that differs.
    """
    strangers = sorted(found.modules.keys() - wanted.modules.keys())
    if strangers:
        raise CheckFailedError(f"module {strangers[0]!r} was written, but is not in the adapter", hint=_HINT)
    overlooked = conventions(found.meta.dialect).overlooked(found)
    for name, module in wanted.modules.items():
        if name in found.modules:
            _confirm_module(name, module, found.modules[name], options)
            if name in overlooked:
                raise _failed(name, "is not among the targets of the configuration, so that PEFT would leave it out")
        elif module.A.any() and module.B.any():
            raise _failed(name, "is missing in what was written")
    _confirm_extras(wanted.extras, found.extras)


def _confirm_module(name: str, wanted: LoraFactors, found: LoraFactors, options: WriteOptions) -> None:
    kinds = [(m.shape, _KINDS.get(m.layout, m.layout), m.kernel) for m in (wanted, found)]
    if kinds[0] != kinds[1]:
        raise _failed(name, f"would come back as {list(found.shape)} {found.layout}")
    if not _same_factors(wanted, found):
        allowed = _allowed(wanted, found, options)
        error = _most_apart(wanted, found)
        if not error <= allowed:
            error = diff(Adapter({name: wanted}), Adapter({name: found})).modules[0].error
        if not error <= allowed:
            raise _failed(name, f"would come back with its update off by {error:.3g}, more than rounding explains")
    for what, ours, theirs in (
        ("DoRA magnitude", wanted.magnitude, found.magnitude),
        ("bias", _scaled(wanted), _scaled(found)),
    ):
        if (ours is None) != (theirs is None) or (
            ours is not None and theirs is not None and not _near(ours, theirs, options.dtype)
        ):
            raise _failed(name, f"would come back with another {what}")


def _same_factors(wanted: LoraFactors, found: LoraFactors) -> bool:
    rank = wanted.rank
    if wanted.scaling != found.scaling or found.rank < rank:
        return False
    if found.A.dtype != wanted.A.dtype or found.B.dtype != wanted.B.dtype:
        return False
    same = torch.equal(wanted.A, found.A[:rank]) and torch.equal(wanted.B, found.B[:, :rank])
    return same and not bool(found.A[rank:].any()) and not bool(found.B[:, rank:].any())


def _most_apart(wanted: LoraFactors, found: LoraFactors) -> float:
    """A cheap bound of the difference of two updates, of use where their factors are alike: |dB| |A| + |B'| |dA|."""
    if found.rank < wanted.rank:
        return math.inf
    ours, theirs = pad(wanted, found.rank), found
    scaled = [m.B.double() * m.scaling for m in (ours, theirs)]
    apart = float((scaled[0] - scaled[1]).norm()) * float(ours.A.double().norm())
    return apart + float(scaled[1].norm()) * float((ours.A.double() - theirs.A.double()).norm())


def _allowed(wanted: LoraFactors, found: LoraFactors, options: WriteOptions) -> float:
    """What rounding A and B, and what is folded into one of them, can do to the update, in Frobenius norm."""
    least = _CODINGS.get(options.coding or "", _eps(options.dtype or torch.float32))
    rounding = sum(max(_eps(tensor.dtype), least) for tensor in (found.A, found.B))
    sizes = [float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for tensor in (wanted.A, wanted.B)]
    return 2 * rounding * abs(wanted.scaling) * sizes[0] * sizes[1]


def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def _scaled(module: LoraFactors) -> Tensor | None:
    """What the module adds to the base bias."""
    return None if module.bias is None else module.bias.double() * module.scaling


def _near(wanted: Tensor, found: Tensor, dtype: torch.dtype | None) -> bool:
    eps = 0.0 if dtype is None and wanted.dtype == found.dtype != torch.float64 else 2 * _eps(dtype or torch.float32)
    if wanted.shape != found.shape:
        return False
    return torch.allclose(found.double(), wanted.double(), rtol=eps, atol=0.0 if dtype is None else 1e-7)


def _confirm_extras(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    ours, theirs = ({_meant(key): (key, tensor) for key, tensor in side.items()} for side in (wanted, found))
    for name in sorted(ours.keys() | theirs.keys()):
        if name not in ours or name not in theirs or not same_bits(ours[name][1], theirs[name][1]):
            key = (ours.get(name) or theirs[name])[0]
            raise CheckFailedError(f"the tensor {key} would not come back as it is", hint=_HINT)


def _meant(key: str) -> str:
    """A key without what depends on whether its module is a target, and by which name a trained copy is called."""
    return key.removeprefix(PREFIX).replace(".base_layer.", ".").replace(IN_MEMORY, ".")


def _failed(name: str, what: str) -> CheckFailedError:
    return CheckFailedError(f"module {name!r} {what}", hint=_HINT)
