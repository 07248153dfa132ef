"""Small adapters made on the fly, with falling spectra as trained ones have, and what is the same between two.

`adapter` and `factors` make one; `shapes`, `modules`, `extras` and `adapters` are hypothesis strategies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.core.meta import Meta

Shape: TypeAlias = tuple[int, int, int]
"""(out, in, rank)."""

SIDES = (1, 2, 3, 5, 7, 13, 17, 31)
"""Widths that `shapes` draws: one, primes, and one beside a power of two."""
SCALINGS = (1.0, 0.5, 2.0, 16 / 6, 1e-3)
_LAYOUTS: tuple[tuple[Layout, tuple[int, ...]], ...] = (
    *(("linear", ()), ("transposed", ()), ("embedding", ())),
    *(("conv", (1, 1)), ("conv", (3, 3)), ("conv", (3,))),
)
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool)


_UNKNOWN = 9_000_000
"""Seeds from here on are not among those that a start is looked for with."""


def factors(out: int, width: int, rank: int, *, seed: int = 0, **options: Any) -> LoraFactors:
    """Random factors A (rank, width) and B (out, rank) whose singular values fall by a third from one to the next.

    Args:
        options: further fields of `LoraFactors`.
    """
    generator = torch.Generator().manual_seed(_UNKNOWN + seed)
    strength = 0.66 ** torch.arange(rank)
    A = torch.randn(rank, width, generator=generator)
    B = torch.randn(out, rank, generator=generator) * strength / max(out * width, 1) ** 0.5
    return LoraFactors(A, B, **options)


def adapter(
    shapes: Mapping[str, Shape] | Sequence[Shape],
    *,
    seed: int = 0,
    extras: Mapping[str, Tensor] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Adapter:
    """An adapter of random factors; without names the modules are m.0, m.1 and so on."""
    if not isinstance(shapes, Mapping):
        shapes = {f"m.{i}": shape for i, shape in enumerate(shapes)}
    modules = {name: factors(*shape, seed=seed + i) for i, (name, shape) in enumerate(shapes.items())}
    return Adapter(dict(sorted(modules.items())), dict(extras or {}), Meta(config=dict(config or {})))


@st.composite
def shapes(draw: st.DrawFn, *, sides: Sequence[int] = SIDES, most_rank: int = 5) -> Shape:
    """The shape of one module; a rank above a side is drawn too."""
    side = st.sampled_from(list(sides))
    return draw(side), draw(side), draw(st.integers(1, most_rank))


@st.composite
def modules(
    draw: st.DrawFn,
    *,
    sides: Sequence[int] = SIDES,
    most_rank: int = 5,
    scalings: Sequence[float] = SCALINGS,
    layouts: bool = True,
    zeros: bool = True,
) -> LoraFactors:
    """One module's factors.

    Args:
        layouts: draw layouts other than a linear layer's, too; a convolution's width is a multiple of its kernel.
        zeros: draw updates that are zero, too.
    """
    out, width, rank = draw(shapes(sides=sides, most_rank=most_rank))
    layout, kernel = draw(st.sampled_from(_LAYOUTS)) if layouts else _LAYOUTS[0]
    width *= int(np.prod(kernel, dtype=int))
    scaling = draw(st.sampled_from(list(scalings)))
    found = factors(
        out, width, rank, seed=draw(st.integers(0, 99)), scaling=scaling, layout=layout, kernel=tuple(kernel)
    )
    if zeros and draw(st.integers(0, 5)) == 0:
        found.B.zero_()
    return found


@st.composite
def extras(draw: st.DrawFn, *, most: int = 3) -> dict[str, Tensor]:
    """Tensors beside the factors, of several dtypes and of no to three dimensions, some of them empty."""
    found: dict[str, Tensor] = {}
    for i in range(draw(st.integers(0, most))):
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
        found[f"extra.{i}"] = (4 * torch.randn(shape, generator=generator)).to(draw(st.sampled_from(_DTYPES)))
    return found


@st.composite
def adapters(
    draw: st.DrawFn,
    *,
    most_modules: int = 3,
    sides: Sequence[int] = SIDES,
    most_rank: int = 5,
    scalings: Sequence[float] = SCALINGS,
    layouts: bool = True,
    zeros: bool = True,
    with_extras: bool = True,
) -> Adapter:
    """An adapter of one to `most_modules` modules, of which one at least is not zero; arguments as for `modules`."""
    module = partial(modules, sides=sides, most_rank=most_rank, scalings=scalings, layouts=layouts)
    every = [draw(module(zeros=False)), *draw(st.lists(module(zeros=zeros), max_size=most_modules - 1))]
    return Adapter({f"m.{i}": module for i, module in enumerate(every)}, draw(extras()) if with_extras else {})


def bits(tensor: Tensor) -> bytes:
    """A tensor's memory."""
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def same_factors(a: Adapter, b: Adapter) -> bool:
    """Whether all factors are equal in every bit."""
    return a.modules.keys() == b.modules.keys() and all(
        torch.equal(m.A, b.modules[n].A) and torch.equal(m.B, b.modules[n].B) for n, m in a.modules.items()
    )


def dense(source: Adapter, module: str) -> Tensor:
    """A module's update (out, in) in float64."""
    found = source.modules[module]
    return found.B.double() @ found.A.double() * found.scaling


def relative_error(a: Adapter, b: Adapter) -> float:
    """|dW - dW'| / |dW| over all modules, from the dense updates in float64."""
    error = energy = 0.0
    for name in a.modules:
        full = dense(a, name).numpy()
        error += float(np.square(full - dense(b, name).numpy()).sum())
        energy += float(np.square(full).sum())
    return float((error / energy) ** 0.5)
