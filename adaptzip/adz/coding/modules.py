"""Coding whole modules at a given step: quantise role after role, closed loop, then entropy-code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptzip.adz.coding import entropy, tables
from adaptzip.adz.coding.classes import choose_classes
from adaptzip.adz.coding.coders import Coder
from adaptzip.adz.coding.decoding import MOST_SQUARES, too_long, whole_values
from adaptzip.adz.coding.entropy import Block, Whole
from adaptzip.adz.coding.levels import Levels
from adaptzip.adz.coding.search import quantise
from adaptzip.adz.coding.trellis import MAX_LEVEL, Quantised
from adaptzip.core.compressed import TensorSpec
from adaptzip.core.method import AnyMethod
from adaptzip.errors import CheckFailedError

_SMALL = 4096
"""Numbers of a tensor that takes less to look at than to ask for."""


@dataclass(frozen=True)
class CodedModule:
    """One module at one step.

    Attributes:
        chunk: its coded block.
        squared_error: |dW - dW'|^2.
        numbers: numbers that the block holds.
        rank: of its layout.
        blocks: what was coded, for coding it in a group; None where it was not kept.
    """

    chunk: bytes
    squared_error: float
    numbers: int
    rank: int = 0
    blocks: Sequence[Block] | None = None


@dataclass(frozen=True, eq=False)
class CodedBlock:
    """Tensors at one step: those that all modules share, or those of a module that are coded as they are.

    Attributes:
        chunk: their coded block; b"" where there are none.
        tensors: as they will be decoded, by role.
        numbers: numbers that the block holds.
        blocks: what was coded.
    """

    chunk: bytes
    tensors: Mapping[str, Tensor]
    numbers: int
    blocks: Sequence[Block] = ()


def code_shared(coder: Coder[AnyMethod], prepared: object, step: float) -> CodedBlock:
    """Quantise and code the shared tensors at `step`; those of a bank that is given are there already.

    Raises:
        CheckFailedError: as `code_modules`.
    """
    if coder.given:
        return CodedBlock(b"", coder.given, 0)
    specs = coder.method.shared_layout(coder.config)
    blocks: list[Block] = []
    done: dict[str, Tensor] = {}
    for spec in specs:
        target = coder.method.shared_target(prepared, spec.role, done)
        block, done[spec.role] = _code_tensors([spec], [target], step)[0]
        blocks.append(block)
    chunk = entropy.encode(1, 1, blocks) if blocks else b""
    return CodedBlock(chunk, done, sum(spec.numbers for spec in specs))


def code_modules(
    coder: Coder[AnyMethod], shared: CodedBlock, fits: Mapping[str, object], ranks: Mapping[str, int], step: float
) -> dict[str, CodedModule]:
    """Code modules of rank >= 1 at `step`.

    Args:
        fits: as `Method.fit` gave them.
        ranks: rank of each of these modules, in 1..max_rank.

    Raises:
        CheckFailedError: if the step is so small that levels overflow the format.
    """
    method, names = coder.method, list(fits)
    layouts = {name: method.layout(coder.sites[name], ranks[name], coder.config) for name in names}
    blocks: dict[str, list[Block]] = {name: [] for name in names}
    done = {name: {**shared.tensors, **coder.basis_tensors(name)} for name in names}
    for index in range(max((len(layout) for layout in layouts.values()), default=0)):
        now = [name for name in names if index < len(layouts[name])]
        specs = [layouts[name][index] for name in now]
        asked = [(fits[n], s.role, ranks[n], done[n]) for n, s in zip(now, specs, strict=True)]
        targets = method.targets(asked)
        for name, spec, (block, values) in zip(now, specs, _code_tensors(specs, targets, step), strict=True):
            blocks[name].append(block)
            done[name][spec.role] = values
    errors = method.squared_errors([(fits[name], done[name]) for name in names])
    return {
        name: CodedModule(
            entropy.encode(ranks[name], coder.max_rank, blocks[name]),
            error,
            sum(spec.numbers for spec in layouts[name]),
            ranks[name],
            blocks[name],
        )
        for name, error in zip(names, errors, strict=True)
    }


def code_as_they_are(
    blocks: Sequence[tuple[int, int, Sequence[TensorSpec], Mapping[str, Tensor]]], step: float
) -> list[CodedBlock]:
    """Code tensors that are not fitted to one another any more, many blocks at a time.

    Args:
        blocks: rank, largest rank, layout and tensors by role, real or whole numbers as `Method.target` gives them; of
            rank 0 nothing is coded.

    Raises:
        CheckFailedError: as `code_modules`.
    """
    specs = [spec for _, _, layout, _ in blocks for spec in layout]
    targets = [tensors[spec.role] for _, _, layout, tensors in blocks for spec in layout]
    coded = iter(_code_tensors(specs, targets, step))
    found = []
    for rank, most, layout, _ in blocks:
        own = [next(coded) for _ in layout]
        chunk = entropy.encode(rank, most, [block for block, _ in own])
        values = {spec.role: values for spec, (_, values) in zip(layout, own, strict=True)}
        found.append(CodedBlock(chunk, values, sum(spec.numbers for spec in layout), [block for block, _ in own]))
    return found


def rounded(targets: Sequence[Tensor], step: float) -> list[Tensor]:
    """Real tensors as they would be decoded after coding at `step`; nothing is coded.

    Raises:
        CheckFailedError: as `code_modules`.
    """
    return [
        torch.from_numpy(quantised.values()).to(target) * step
        for quantised, target in zip(_trellis(targets, step)[0], targets, strict=True)
    ]


def _code_tensors(specs: Sequence[TensorSpec], targets: Sequence[Tensor], step: float) -> list[tuple[Block, Tensor]]:
    """Code tensors of one place in their modules' layouts: the blocks, and the values they will be decoded to."""
    for spec, target in zip(specs, targets, strict=True):
        spec.check(target)
    results: dict[int, tuple[Block, Tensor]] = {}
    real = [i for i, spec in enumerate(specs) if spec.kind == "real"]
    for i, block in zip(real, _quantise([targets[i] for i in real], step), strict=True):
        values = torch.from_numpy(block.quantised.values()).to(targets[i])
        if specs[i].directions and too_long(values, MOST_SQUARES / 2):
            raise _too_fine()
        results[i] = block, values * step
    for i, (spec, target) in enumerate(zip(specs, targets, strict=True)):
        if spec.kind != "real":
            block_ = Whole(target.cpu().numpy().astype(np.int32), entropy.size_of(spec))
            results[i] = block_, whole_values(block_, spec, spec.role).to(target.device)
    return [results[i] for i in range(len(specs))]


def _too_fine() -> CheckFailedError:
    return CheckFailedError(
        "the quantiser step is too small for the format's levels",
        hint="ask for a larger error or a smaller budget, or use `lossless=True`",
    )


def _quantise(targets: Sequence[Tensor], step: float) -> list[Levels]:
    quantised, scales = _trellis(targets, step)
    return [Levels(q, choose_classes(q, scale)) for q, scale in zip(quantised, scales, strict=True)]


def _trellis(targets: Sequence[Tensor], step: float) -> tuple[list[Quantised], list[Any]]:
    """Levels of each tensor, and the scale index of each of its rows."""
    scales: list[Any] = [None] * len(targets)
    classes: list[Any] = [None] * len(targets)
    for alike in _alike(targets):
        together = torch.stack([targets[i] for i in alike]) if len(alike) > 1 else targets[alike[0]][None]
        if not bool(together.abs().max() < MAX_LEVEL * step):
            raise _too_fine()
        for i, scale, model in zip(alike, *_first_classes(together, step), strict=True):
            scales[i], classes[i] = scale, model
    return quantise(targets, classes, torch.from_numpy(tables.bits()), step), scales


def _alike(targets: Sequence[Tensor]) -> list[list[int]]:
    """Indices of tensors that are looked at together: small ones of one shape, and each larger one alone."""
    groups: dict[Any, list[int]] = {}
    for i, target in enumerate(targets):
        groups.setdefault(tuple(target.shape) if target.numel() <= _SMALL else i, []).append(i)
    return list(groups.values())


def _first_classes(targets: Tensor, step: float) -> tuple[Any, Tensor]:
    """Scale index of each row, and the row of `tables.bits()` that prices its levels, from the row's moments.

    Args:
        targets: (tensors, rows, width).

    Returns:
        Both (tensors, rows).
    """
    deviation = targets.square().mean(-1).sqrt()
    ratio = targets.abs().mean(-1) / deviation.clamp(min=torch.finfo(torch.float32).tiny)
    scales = tables.scale_index(deviation.double().cpu().numpy() / step)
    shapes = tables.shape_index(ratio.double().cpu().numpy())
    free = len(tables.bits()) - 1
    index = np.where(tables.raw_bits(scales) > 0, free, shapes * tables.SCALES + scales)
    return scales, torch.from_numpy(index).to(targets.device)
