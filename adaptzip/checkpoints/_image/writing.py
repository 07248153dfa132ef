"""The tensors of an image adapter's file, from its modules: down, up and alpha, or A and B, in one spelling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._image.factors import alpha_of
from adaptzip.checkpoints._image.keys import ALPHAS, SPELLINGS
from adaptzip.checkpoints._image.origin import Origin
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._rescaling import fold, in_range, pad
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import RefusedError
from adaptzip.files.dtypes import DTYPES
from adaptzip.files.tensors import Pending, header_entries, pending

_ROUNDED = 1e-6
"""The relative error of a factor that is none."""


@dataclass(frozen=True)
class Plan:
    """How to write.

    Attributes:
        spelling: how the factors are spelled, by its name in `SPELLINGS`.
        alphas: whether modules have an alpha; without, the scale is in the factors.
        stem: how a module is spelled.
        peft_dora: whether DoRA's magnitudes are called and shaped as PEFT's are.
        norms: whether differences of tensors beside the factors are called `w_norm` and `b_norm`.
        alone: alphas of modules without factors, by the module's spelling, which scale nothing.
        dtype: dtype of the factors; None keeps their own.
        exact: whether a factor that its own dtype would round, with a scale in it, is float32.
        header: that of the source's file, whose alphas and shapes are kept.
        origin: its keys and tensors, where there is a header.
    """

    spelling: str
    alphas: bool
    stem: Callable[[str], str]
    peft_dora: bool = False
    norms: bool = False
    alone: Mapping[str, float] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    exact: bool = False
    header: bytes | None = None
    origin: Origin | None = None


def file_tensors(adapter: Adapter, plan: Plan) -> dict[str, Pending]:
    """What the file holds, by key.

    Where there is no source's header, all modules have one alpha: diffusers gives modules the commonest alpha of a file
    (its converters up to 0.42). The rest of a scale is in `up`.

    Raises:
        RefusedError: if a factor is too large for the dtype, or two tensors would have one key.
    """
    entries = header_entries(plan.header)
    modules = {name: pad(factors, max(factors.rank, 1)) for name, factors in adapter.modules.items()}
    alpha = None if plan.header is not None or not plan.alphas else commonest_alpha(modules.values())
    tensors: dict[str, Pending] = {}
    for name, factors in modules.items():
        found = _module(name, factors, alpha, plan, entries)
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise RefusedError(
                f"module {name} would have the key {twice[0]}, which another module of the adapter has",
                hint="write it in another dialect",
            )
        tensors |= found
    tensors |= _extras(adapter.extras, plan, entries)
    tensors |= {f"{stem}.alpha": pending(torch.tensor(float(alpha))) for stem, alpha in plan.alone.items()}
    return {key: _as_before(key, tensor, entries.get(key)) for key, tensor in tensors.items()}


def commonest_alpha(modules: Iterable[LoraFactors]) -> float:
    """The alpha = |scale| * rank of most modules, which is written for all of them; diffusers wants none below 0."""
    counts = Counter(abs(alpha) for factors in modules if (alpha := alpha_of(factors)))
    return max(counts, key=lambda alpha: (counts[alpha], alpha), default=1.0)


def _module(
    name: str, factors: LoraFactors, alpha: float | None, plan: Plan, entries: Mapping[str, Any]
) -> dict[str, Pending]:
    """A module's tensors by key: as its spelling calls them, or as the source did."""
    stem = plan.stem(name)
    if plan.origin is None:
        scaled = _scaled(factors, 1.0 if alpha is None else alpha / factors.rank)
        scaled = in_range(name, scaled, torch.float16 if torch.float16 in _dtypes(factors, plan) else None)
        dtypes = _dtypes(factors, plan)
        if plan.exact and plan.dtype is None and not _holds(dtypes[1], scaled.B):
            dtypes = (dtypes[0], scaled.B.dtype)
        tensors = _factors(scaled, plan, dtypes, plan.alphas)
        return {f"{stem}.{_end(part, plan)}": tensor for part, tensor in tensors.items()}
    keys = plan.origin.keys
    own = {part: pending(t, plan.dtype) for part, t in plan.origin.own(name, stem, factors).items()}
    tensors = _factors(factors, plan, _dtypes(factors, plan), (stem, "alpha") in keys or not entries)
    if own.keys() - {"alpha"}:
        tensors = {part: tensor for part, tensor in tensors.items() if part not in ("down", "up")}
    return {keys.get((stem, part), f"{stem}.{_end(part, plan)}"): tensor for part, tensor in (tensors | own).items()}


def _holds(dtype: torch.dtype, factor: Tensor) -> bool:
    """Whether a dtype has a factor but for what rounding the smallest numbers of float16 costs."""
    lost = torch.linalg.vector_norm((factor.to(dtype).to(factor.dtype) - factor).double())
    return bool(lost <= _ROUNDED * torch.linalg.vector_norm(factor.double()))


def _dtypes(factors: LoraFactors, plan: Plan) -> tuple[torch.dtype, torch.dtype]:
    """Of A and B in the file."""
    return plan.dtype or factors.A.dtype, plan.dtype or factors.B.dtype


def _end(part: str, plan: Plan) -> str:
    """What stands behind a module's spelling for a part."""
    down, up = SPELLINGS[plan.spelling]
    magnitude = "lora_magnitude_vector" if plan.peft_dora else "dora_scale"
    ends = {"down": down, "up": up, "magnitude": magnitude, "bias": f"{up.removesuffix('.weight')}.bias"}
    return ends.get(part, part)


def _factors(
    factors: LoraFactors, plan: Plan, dtypes: tuple[torch.dtype, torch.dtype], alpha: bool
) -> dict[str, Pending]:
    """A module's tensors by part, with an alpha or without."""
    kernel = factors.kernel
    a = factors.A.reshape(factors.rank, -1, *kernel)
    b = factors.B.reshape(*factors.B.shape, *(1 for _ in kernel))
    tensors = {"down": pending(a, dtypes[0]), "up": pending(b, dtypes[1])}
    if alpha:
        value = alpha_of(factors)
        tensors["alpha"] = pending(torch.tensor(value, dtype=torch.float64), _holding(value, dtypes[0]))
    if factors.magnitude is not None:
        ones = [1] * len(kernel)
        # PEFT's vector has no dimension for inputs, but of a convolution.
        shape = [1, -1, *ones] if factors.magnitude.ndim > 1 or (plan.peft_dora and kernel) else [-1, 1, *ones]
        shape = [-1] if plan.peft_dora and not kernel else shape
        tensors["magnitude"] = pending(factors.magnitude.reshape(shape), plan.dtype)
    if factors.bias is not None:
        tensors["bias"] = pending(factors.bias, plan.dtype)
    return tensors


def _scaled(factors: LoraFactors, scaling: float) -> LoraFactors:
    """The same update with another scale, the difference in B."""
    if factors.scaling == scaling:
        return factors
    whole = fold(replace(factors, scaling=factors.scaling / scaling))
    return replace(whole, scaling=scaling)


def _holding(value: float, dtype: torch.dtype) -> torch.dtype:
    """A dtype that holds a number: the factors' own, or float32 where that would round it."""
    return dtype if math.isclose(float(torch.tensor(value, dtype=dtype)), value, rel_tol=1e-12) else torch.float32


_ENDS = {"weight": ("diff", "w_norm"), "bias": ("diff_b", "b_norm"), "scale": ("scale",)}
"""What is written for a layer's tensors, by their leaves; the last are norms' scales, which replace the base's."""


def _extras(extras: Mapping[str, Tensor], plan: Plan, entries: Mapping[str, Any]) -> dict[str, Pending]:
    """What is added to tensors of the base: `diff` and `diff_b`, or as the source's file called them."""
    tensors = {}
    for key, tensor in extras.items():
        whole = key.removeprefix(PREFIX)
        name, _, leaf = whole.rpartition(".")
        ends = _ENDS.get(leaf, ("diff",))
        stem = plan.stem(name if leaf in _ENDS else whole)
        # Programs add a `b_norm` where there is a `w_norm` alone.
        norm = plan.norms and f"{PREFIX}{name}.weight" in extras
        end = next((end for end in ends if f"{stem}.{end}" in entries), ends[-1 if norm else 0])
        tensors[f"{stem}.{end}"] = pending(tensor)
    return tensors


def _as_before(key: str, tensor: Pending, entry: Any) -> Pending:
    """In the shape and, for an alpha, in the dtype of the source's file; its shapes differ in sizes of 1 alone."""
    if not isinstance(entry, dict):
        return tensor
    shape, dtype = entry.get("shape"), DTYPES.get(str(entry.get("dtype")))
    if not isinstance(shape, list) or dtype is None:
        return tensor
    if [size for size in shape if size != 1] != [size for size in tensor.shape if size != 1]:
        return tensor
    return Pending(
        tuple(shape),
        dtype if key.endswith(ALPHAS) else tensor.dtype,
        lambda: tensor.make().reshape(shape),
    )
