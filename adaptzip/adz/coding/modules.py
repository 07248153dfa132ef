"""Coding whole modules at a given step: quantise role after role, closed loop, then entropy-code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from adaptzip.adz.coding import entropy, tables
from adaptzip.adz.coding.classes import choose_classes
from adaptzip.adz.coding.entropy import Block, Layout, Whole
from adaptzip.adz.coding.levels import Levels
from adaptzip.adz.coding.search import quantise
from adaptzip.adz.coding.trellis import MAX_LEVEL, Quantised
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.family import BASIS_U, BASIS_V, AnyFamily, MethodConfig
from adaptzip.core.method import AnyMethod
from adaptzip.errors import CheckFailedError, FormatError

MOST_SQUARES = 2.0**52
"""What the squares of a row of directions, summed in float32, stay below; in float64 the sum is then exact."""

MOST_FACTOR_NUMBERS_PER_BYTE = 65536
"""Numbers in a module's factors for each byte of its block, with 64 bytes more: a bound for hostile files."""

SHARED = "(shared)"
"""What stands for a module's name in messages about the shared tensors."""


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


FamilyT = TypeVar("FamilyT", bound=AnyFamily, covariant=True)


@dataclass(frozen=True, eq=False)
class Coder(Generic[FamilyT]):
    """A method and what its modules are coded with.

    Attributes:
        method: any family does for decoding; what fits and codes modules asks for a `Method`.
        config: the method's, settled.
        sites: every module's shape.
        max_rank: largest rank that a block may have.
        basis: the frozen basis, for methods that need one, or the frames of some modules.
    """

    method: FamilyT
    config: MethodConfig
    sites: Mapping[str, Site]
    max_rank: int
    basis: Basis | None = None

    def basis_tensors(self, name: str) -> dict[str, Tensor]:
        """A module's basis or frame, by role; {} where it has none."""
        if self.method.takes_frame and not self.sites[name].frame:
            return {}
        if self.basis is None:
            return {}
        module = self.basis.modules[name]
        return {BASIS_V: module.V} if self.method.takes_frame else {BASIS_U: module.U, BASIS_V: module.V}


AnyCoder: TypeAlias = Coder[AnyFamily]


def numbered(sites: Mapping[str, Site], sizes: Sequence[int] = ()) -> dict[str, Site]:
    """All sites of a file as a coder knows them: each with its number, and the directions of its frame.

    Args:
        sites: by sorted name.
        sizes: directions of each module's frame, in the order of the sites; () for no frames.
    """
    frames = sizes or [0] * len(sites)
    return {
        name: replace(site, frame=size, number=number)
        for number, ((name, site), size) in enumerate(zip(sites.items(), frames, strict=True))
    }


def code_shared(coder: Coder[AnyMethod], prepared: object, step: float) -> CodedBlock:
    """Quantise and code the shared tensors at `step`.

    Raises:
        CheckFailedError: as `code_modules`.
    """
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
        targets = [method.target(fits[n], s.role, ranks[n], done[n]) for n, s in zip(now, specs, strict=True)]
        for name, spec, (block, values) in zip(now, specs, _code_tensors(specs, targets, step), strict=True):
            blocks[name].append(block)
            done[name][spec.role] = values
    return {
        name: CodedModule(
            entropy.encode(ranks[name], coder.max_rank, blocks[name]),
            method.squared_error(fits[name], done[name]),
            sum(spec.numbers for spec in layouts[name]),
            ranks[name],
            blocks[name],
        )
        for name in names
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


def decode_shared(coder: AnyCoder, chunk: bytes | memoryview, step: float) -> dict[str, Tensor]:
    """The shared tensors, by role; {} for methods without any.

    Raises:
        FormatError: if the block is damaged.
    """
    specs = coder.method.shared_layout(coder.config)
    if bool(specs) != (len(chunk) > 0):
        raise FormatError("shared tensors are missing, or the method has none")
    if not specs:
        return {}
    blocks = entropy.decode(chunk, 1, lambda _: specs, SHARED)
    return decoded(blocks, specs, step, SHARED)


def decode_module(coder: AnyCoder, chunk: bytes | memoryview, step: float, name: str) -> dict[str, Tensor]:
    """The tensors of one module by role, without shared ones and basis; {} for a zero update.

    Levels are exact in float32 and `step` is a float32 number, so that every product is rounded once.

    Raises:
        FormatError: if the block is damaged.
    """
    return decode_ranked(coder, chunk, step, name)[1]


def decode_ranked(coder: AnyCoder, chunk: bytes | memoryview, step: float, name: str) -> tuple[int, dict[str, Tensor]]:
    """The rank of one module, and its tensors as `decode_module` gives them; (0, {}) for a zero update.

    Raises:
        FormatError: if the block is damaged.
    """
    if len(chunk) == 0:
        return 0, {}
    specs: Sequence[TensorSpec] = ()
    found = 0
    checked = layout_of(coder, name, len(chunk))

    def layout(rank: int) -> Sequence[TensorSpec]:
        nonlocal specs, found
        found, specs = rank, checked(rank)
        return specs

    blocks = entropy.decode(chunk, coder.max_rank, layout, name)
    return found, decoded(blocks, specs, step, name)


def layout_of(coder: AnyCoder, name: str, size: int) -> Layout:
    """A module's layout by its rank, for decoding it from `size` bytes.

    The layout raises:
        FormatError: if the rank is out of range, or its factors would be too large for so few bytes.
    """
    site = coder.sites[name]

    def layout(rank: int) -> Sequence[TensorSpec]:
        if rank > min(coder.max_rank, coder.method.max_rank(site, coder.config)):
            raise FormatError(f"module {name!r}, {site.out} x {site.width}: rank {rank} is out of range")
        numbers = factor_numbers(coder, name, rank)
        if numbers > most_factor_numbers(size):
            raise FormatError(f"module {name!r}: {size} bytes cannot stand for factors of {numbers} numbers")
        return coder.method.layout(site, rank, coder.config)

    return layout


def factor_numbers(coder: AnyCoder, name: str, rank: int) -> int:
    """Numbers in the factors that a module of this rank has."""
    site = coder.sites[name]
    return coder.method.factor_rank(site, rank, coder.config) * (site.out + site.width)


def most_factor_numbers(size: int) -> int:
    """How many numbers of factors `size` bytes may stand for."""
    return MOST_FACTOR_NUMBERS_PER_BYTE * (size + entropy.SPARE_BYTES)


def decoded(blocks: Sequence[Block], specs: Sequence[TensorSpec], step: float, name: str) -> dict[str, Tensor]:
    """Tensors by role, as `decode_module` gives them.

    Raises:
        FormatError: if a tensor is none that the method could have.
    """
    return {spec.role: _decoded(block, spec, step, name) for spec, block in zip(specs, blocks, strict=True)}


def _decoded(block: Block, spec: TensorSpec, step: float, name: str) -> Tensor:
    if isinstance(block, Whole):
        return _whole_values(block, spec, name)
    values = torch.from_numpy(block.quantised.values()).float()
    if not spec.directions:
        return values.mul_(step)
    if values.numel() and _longest(values) >= MOST_SQUARES:
        raise FormatError(f"module {name!r}: a row of {spec.role} is too long for its length to be exact")
    return values


def _whole_values(block: Whole, spec: TensorSpec, name: str) -> Tensor:
    """Indices as int64; stored weights of a simplex as exact float32 shares of its bound, a power of two or not."""
    numbers = torch.from_numpy(block.numbers.astype(np.int64))
    if spec.kind == "index":
        return numbers
    if numbers.numel() and int(numbers.sum(1).max()) > spec.bound:
        raise FormatError(f"module {name!r}: weights of {spec.role} add up to more than 1")
    return numbers.float() / spec.bound


def _code_tensors(specs: Sequence[TensorSpec], targets: Sequence[Tensor], step: float) -> list[tuple[Block, Tensor]]:
    """Code tensors of one place in their modules' layouts: the blocks, and the values they will be decoded to."""
    for spec, target in zip(specs, targets, strict=True):
        spec.check(target)
    results: dict[int, tuple[Block, Tensor]] = {}
    real = [i for i, spec in enumerate(specs) if spec.kind == "real"]
    for i, block in zip(real, _quantise([targets[i] for i in real], step), strict=True):
        values = torch.from_numpy(block.quantised.values()).to(targets[i])
        if specs[i].directions and _longest(values) >= MOST_SQUARES / 2:
            raise _too_fine()
        results[i] = block, values * step
    for i, (spec, target) in enumerate(zip(specs, targets, strict=True)):
        if spec.kind != "real":
            block_ = Whole(target.cpu().numpy().astype(np.int32), entropy.size_of(spec))
            results[i] = block_, _whole_values(block_, spec, spec.role).to(target.device)
    return [results[i] for i in range(len(specs))]


def _longest(values: Tensor) -> float:
    """Largest sum of squares of a row."""
    return float(values.square().sum(1).max())


def _too_fine() -> CheckFailedError:
    return CheckFailedError(
        "the quantiser step is too small for the format's levels",
        hint="ask for a larger error or a smaller budget, or use --lossless",
    )


def _quantise(targets: Sequence[Tensor], step: float) -> list[Levels]:
    quantised, scales = _trellis(targets, step)
    return [Levels(q, choose_classes(q, scale)) for q, scale in zip(quantised, scales, strict=True)]


def _trellis(targets: Sequence[Tensor], step: float) -> tuple[list[Quantised], list[Any]]:
    """Levels of each tensor, and the scale index of each of its rows."""
    scales = []
    classes = []
    for target in targets:
        if not bool(target.abs().max() < MAX_LEVEL * step):
            raise _too_fine()
        scale, model = _first_classes(target, step)
        scales.append(scale)
        classes.append(model)
    return quantise(targets, classes, torch.from_numpy(tables.bits()), step), scales


def _first_classes(target: Tensor, step: float) -> tuple[Any, Tensor]:
    """Scale index of each row, and the row of `tables.bits()` that prices its levels, from the row's moments."""
    deviation = target.square().mean(1).sqrt()
    ratio = target.abs().mean(1) / deviation.clamp(min=torch.finfo(torch.float32).tiny)
    scales = tables.scale_index(deviation.double().cpu().numpy() / step)
    shapes = tables.shape_index(ratio.double().cpu().numpy())
    free = len(tables.bits()) - 1
    index = np.where(tables.raw_bits(scales) > 0, free, shapes * tables.SCALES + scales)
    return scales, torch.from_numpy(index).to(target.device)
