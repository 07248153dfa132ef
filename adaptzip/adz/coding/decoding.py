"""Tensors of modules from their blocks, exactly, on every machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from adaptzip.adz.coding import entropy
from adaptzip.adz.coding.coders import AnyCoder, layout_of
from adaptzip.adz.coding.entropy import Block, Whole
from adaptzip.adz.coding.lanes import Room, decode_together, on_cpu
from adaptzip.core import compiled
from adaptzip.core.compressed import Buffer, TensorSpec
from adaptzip.errors import FormatError

MOST_SQUARES = 2.0**52
"""What the squares of a row of directions, summed in float32, stay below; in float64 the sum is then exact."""

SHARED = "(shared)"
"""What stands for a module's name in messages about the shared tensors."""


def decode_shared(coder: AnyCoder, chunk: bytes | memoryview, step: float) -> dict[str, Tensor]:
    """The shared tensors, by role, those of a bank included; {} for methods without any.

    Raises:
        FormatError: if the block is damaged, or there beside a bank.
    """
    given = coder.given
    specs = () if given else coder.method.shared_layout(coder.config)
    if bool(specs) != (len(chunk) > 0):
        raise FormatError("shared tensors are missing, or the method has none")
    if not specs:
        return given
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


def decode_many(
    coder: AnyCoder, chunks: Mapping[str, Buffer], step: float, room: Room | None = None
) -> dict[str, tuple[int, dict[str, Tensor]]]:
    """Rank and tensors of many modules, as `decode_ranked` gives them of each; fast where all are of real numbers.

    Args:
        room: as for `lanes.on_cpu`.

    Raises:
        FormatError: if a block is damaged.
    """
    # The longest first: two lanes then end at about the same time.
    stored = {name: chunks[name] for name in sorted(chunks, key=lambda name: -len(chunks[name])) if len(chunks[name])}
    if not compiled.worthwhile(sum(map(len, stored.values()))):
        return {name: decode_ranked(coder, chunk, step, name) for name, chunk in chunks.items()}
    layouts = [layout_of(coder, name, len(chunk)) for name, chunk in stored.items()]
    modules = decode_together(list(stored.values()), coder.max_rank, layouts, partial(on_cpu, room=room))
    together = dict(zip(stored, modules, strict=True))
    found = {}
    for name, chunk in chunks.items():
        numbers = together.get(name)
        if numbers is None:
            found[name] = decode_ranked(coder, chunk, step, name)
            continue
        tensors = zip(numbers.specs, numbers.tensors, strict=True)
        found[name] = (
            numbers.rank,
            {spec.role: _in_steps(values, spec, step, name, again=room is not None) for spec, values in tensors},
        )
    return found


def decoded(blocks: Sequence[Block], specs: Sequence[TensorSpec], step: float, name: str) -> dict[str, Tensor]:
    """Tensors by role, as `decode_module` gives them.

    Raises:
        FormatError: if a tensor is none that the method could have.
    """
    return {spec.role: _decoded(block, spec, step, name) for spec, block in zip(specs, blocks, strict=True)}


def _decoded(block: Block, spec: TensorSpec, step: float, name: str) -> Tensor:
    if isinstance(block, Whole):
        return whole_values(block, spec, name)
    return _in_steps(torch.from_numpy(block.quantised.values()).float(), spec, step, name)


def _in_steps(values: Tensor, spec: TensorSpec, step: float, name: str, *, again: bool = False) -> Tensor:
    """Numbers in steps as they are meant.

    Args:
        again: whether the memory of `values` is used again, and what may be kept lies elsewhere; else it is changed.
    """
    if not spec.directions:
        return values * step if again else values.mul_(step)
    if too_long(values, MOST_SQUARES):
        raise FormatError(f"module {name!r}: a row of {spec.role} is too long for its length to be exact")
    return values


def whole_values(block: Whole, spec: TensorSpec, name: str) -> Tensor:
    """Indices as int64; stored weights of a simplex as exact float32 shares of its bound, a power of two or not."""
    numbers = torch.from_numpy(block.numbers.astype(np.int64))
    if spec.kind == "index":
        return numbers
    if numbers.numel() and int(numbers.sum(1).max()) > spec.bound:
        raise FormatError(f"module {name!r}: weights of {spec.role} add up to more than 1")
    return numbers.float() / spec.bound


def too_long(values: Tensor, limit: float) -> bool:
    """Whether the squares of a row, summed in float32, reach a limit."""
    if not values.numel():
        return False
    largest = max(map(abs, map(float, values.aminmax())))
    # Half of it leaves room for what float32 rounds; nearly always one look at the largest number is enough.
    return values.shape[1] * largest**2 >= limit / 2 and float(values.square().sum(1).max()) >= limit
