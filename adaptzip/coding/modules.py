"""Coding whole modules at a given step: quantise role after role, closed loop, then entropy-code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptzip.coding import entropy, tables
from adaptzip.coding.classes import choose_classes
from adaptzip.coding.entropy import Block
from adaptzip.coding.tables import Class
from adaptzip.coding.trellis import MAX_LEVEL, quantise
from adaptzip.compressed import Site, TensorSpec
from adaptzip.errors import CheckFailedError, FormatError
from adaptzip.methods._base import Method

MOST_SQUARES = 2.0**52
"""What the squares of a row of directions, summed in float32, stay below; in float64 the sum is then exact."""


@dataclass(frozen=True)
class CodedModule:
    """One module at one step.

    Attributes:
        chunk: its coded block.
        squared_error: |dW - dW'|^2.
        numbers: quantised numbers that the block holds.
    """

    chunk: bytes
    squared_error: float
    numbers: int


def code_modules(
    method: Method,
    fits: Mapping[str, Any],
    ranks: Mapping[str, int],
    sites: Mapping[str, Site],
    max_rank: int,
    step: float,
) -> dict[str, CodedModule]:
    """Code modules of rank >= 1 at `step`.

    Args:
        fits: as `Method.fit` gave them.
        ranks: rank of each of these modules, in 1..max_rank.

    Raises:
        CheckFailedError: if the step is so small that levels overflow the format.
    """
    names = list(fits)
    layouts = {name: method.layout(sites[name], ranks[name]) for name in names}
    blocks: dict[str, list[Block]] = {name: [] for name in names}
    done: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for index, role in enumerate(method.roles):
        targets = [method.target(fits[name], role, ranks[name], done[name]) for name in names]
        for name, target, block in zip(names, targets, _quantise(targets, step), strict=True):
            values = torch.from_numpy(block.quantised.values()).to(target)
            if layouts[name][index].directions and _longest(values) >= MOST_SQUARES / 2:
                raise _too_fine()
            blocks[name].append(block)
            done[name][role] = values * step
    return {
        name: CodedModule(
            entropy.encode(ranks[name], max_rank, blocks[name]),
            method.squared_error(fits[name], done[name]),
            sum(spec.numbers for spec in layouts[name]),
        )
        for name in names
    }


def decode_module(
    method: Method, chunk: bytes | memoryview, site: Site, max_rank: int, step: float, name: str
) -> dict[str, Tensor]:
    """The quantised tensors of one module, float32; {} for a zero update.

    Levels are exact in float32 and `step` is a float32 number, so that every product is rounded once.

    Raises:
        FormatError: if the block is damaged.
    """
    specs: Sequence[TensorSpec] = ()

    def shapes(rank: int) -> list[tuple[int, int]]:
        nonlocal specs
        if rank > min(max_rank, site.out, site.width):
            raise FormatError(f"module {name!r}, {site.out} x {site.width}: rank {rank} is out of range")
        specs = method.layout(site, rank)
        return [(spec.rows, spec.width) for spec in specs]

    _, blocks = entropy.decode(chunk, max_rank, shapes, name)
    return {spec.role: _dequantise(block, spec, step, name) for spec, block in zip(specs, blocks, strict=True)}


def _dequantise(block: Block, spec: TensorSpec, step: float, name: str) -> Tensor:
    values = torch.from_numpy(block.quantised.values()).float()
    if not spec.directions:
        return values.mul_(step)
    if _longest(values) >= MOST_SQUARES:
        raise FormatError(f"module {name!r}: a row of {spec.role} is too long for its length to be exact")
    return values


def _longest(values: Tensor) -> float:
    """Largest sum of squares of a row."""
    return float(values.square().sum(1).max())


def _too_fine() -> CheckFailedError:
    return CheckFailedError(
        "the quantiser step is too small for the format's levels",
        hint="ask for a larger error or a smaller budget, or use --lossless",
    )


def _quantise(targets: Sequence[Tensor], step: float) -> list[Block]:
    scales = []
    classes = []
    for target in targets:
        if not bool(target.abs().max() < MAX_LEVEL * step):
            raise _too_fine()
        scale, model = _first_classes(target, step)
        scales.append(scale)
        classes.append(model)
    rates = torch.from_numpy(tables.bits())
    quantised = quantise(targets, classes, rates, step)
    return [Block(q, choose_classes(q, scale)) for q, scale in zip(quantised, scales, strict=True)]


def _first_classes(target: Tensor, step: float) -> tuple[Any, Tensor]:
    """Scale index of each row, and the row of `tables.bits()` that prices its levels, from the row's moments."""
    deviation = target.square().mean(1).sqrt()
    ratio = target.abs().mean(1) / deviation.clamp(min=torch.finfo(torch.float32).tiny)
    scales = tables.scale_index(deviation.double().cpu().numpy() / step)
    shapes = tables.shape_index(ratio.double().cpu().numpy())
    models = [Class(int(shape), int(scale)) for shape, scale in zip(shapes, scales, strict=True)]
    free = len(tables.bits()) - 1
    index = np.array([free if model.raw_bits else model.table for model in models])
    return scales, torch.from_numpy(index).to(target.device)
