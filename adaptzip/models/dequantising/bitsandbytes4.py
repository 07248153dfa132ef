"""bitsandbytes' four bits, nf4 and fp4, whose scales may be quantised once more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

import torch
from torch import Tensor

from adaptzip.files.json_values import json_values
from adaptzip.models.dequantising.source import Found, Source

STATE = ".quant_state.bitsandbytes__"
CODES: Mapping[str, tuple[float, ...]] = {
    "nf4": (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
    "fp4": (
        0.0, 0.005208333333333333, 0.6666666666666666, 1.0, 0.3333333333333333, 0.5, 0.16666666666666666, 0.25,
        0.0, -0.005208333333333333, -0.6666666666666666, -1.0, -0.3333333333333333, -0.5, -0.16666666666666666, -0.25,
    ),
}  # fmt: skip
"""The library computes with these, whatever table is stored beside a weight."""
_NEAR = 1e-6


@dataclass(frozen=True, eq=False)
class FourBits:
    """A weight of two numbers a byte, the first in the upper half, and a scale for each block of them.

    Attributes:
        source: the model's tensors.
        name: the stored bytes, of whatever dtype.
        shape: the weight's.
        block: numbers that share a scale.
        pairs: the two numbers of each byte, (256, 2).
        nested: scales that share a scale, and what is added to each; None where scales are stored as floats.
    """

    source: Source
    name: str
    shape: tuple[int, ...]
    block: int
    pairs: Tensor
    nested: tuple[int, float] | None

    def rows(self, first: int, last: int) -> Tensor:
        width = prod(self.shape[1:])
        begin, end = first * width, last * width
        one, other = begin // self.block, -(-end // self.block)
        start, stop = one * self.block, min(other * self.block, prod(self.shape))
        size = self.source.stored(self.name).dtype.itemsize
        cells = (start // 2 // size, -(-stop // (2 * size)))
        data = self.source.part(self.name, cells).reshape(-1).view(torch.uint8)[start // 2 - cells[0] * size :]
        numbers = self.pairs.index_select(0, data.to(torch.int32)).reshape(-1)[: stop - start]
        numbers = numbers * self._scales(one, other).repeat_interleave(self.block)[: stop - start]
        return numbers[begin - start : end - start].reshape(last - first, *self.shape[1:])

    def _scales(self, first: int, last: int) -> Tensor:
        if self.nested is None:
            return self.source.part(f"{self.name}.absmax", (first, last)).to(torch.float32)
        block, offset = self.nested
        table = self.source.whole(f"{self.name}.nested_quant_map")
        above = self.source.whole(f"{self.name}.nested_absmax")[torch.arange(first, last) // block]
        return table[self.source.part(f"{self.name}.absmax", (first, last)).to(torch.int32)] * above + offset


def find_four_bits(source: Source, settings: Mapping[str, object]) -> Iterator[Found]:
    """The weights that bitsandbytes stored in four bits.

    Raises:
        RefusedError: if one is incomplete, or of another layout.
    """
    for name in [n.removesuffix(".absmax") for n in source.shards if n.endswith(".weight.absmax")]:
        states = [n for n in source.shards if n.startswith(name + STATE)]
        if len(states) != 1:
            raise source.refused(f"{name} has {len(states)} tensors {STATE[1:]}..., expected one")
        decoder = _decoder(source, name, states[0])
        parts = [f"{name}.absmax", f"{name}.quant_map", states[0]]
        parts += [f"{name}.nested_absmax", f"{name}.nested_quant_map"] if decoder.nested else []
        yield Found(name, name, tuple(parts), decoder)


def _decoder(source: Source, name: str, state: str) -> FourBits:
    told = _told(source, state)
    kind, shape, block = state.removeprefix(name + STATE), told.get("shape"), told.get("blocksize")
    if kind not in CODES or told.get("quant_type") != kind:
        raise source.refused(f"{state} says quant_type {str(told.get('quant_type'))[:40]}, expected nf4 or fp4")
    if not _is_shape(shape) or not _is_count(block) or block % 2:
        raise source.refused(f"{state} says shape {str(shape)[:40]} and blocksize {str(block)[:40]}")
    count = prod(shape)
    held, blocks = source.stored(name), -(-count // block)
    if held.bytes != -(-count // 2) or len(held.shape) != 2 or held.shape[1] != 1:
        raise source.refused(f"{name} is {list(held.shape)}, expected {-(-count // 2)} bytes in one column")
    code = torch.tensor(CODES[kind])
    source.expect(f"{name}.quant_map", (16,), torch.float32)
    if (source.whole(f"{name}.quant_map") - code).abs().max() > _NEAR:
        raise source.refused(f"{name}.quant_map is not the table of {kind}")
    nested = None
    if f"{name}.nested_absmax" in source:
        nested = _nested(source, name, told, blocks)
    else:
        source.expect(f"{name}.absmax", (blocks,), torch.float32, torch.float16, torch.bfloat16)
    pairs = torch.stack((code.repeat_interleave(16), code.repeat(16)), dim=1)
    return FourBits(source, name, tuple(shape), block, pairs, nested)


def _nested(source: Source, name: str, told: Mapping[str, Any], blocks: int) -> tuple[int, float]:
    block, offset = told.get("nested_blocksize"), told.get("nested_offset")
    if not _is_count(block) or not isinstance(offset, float | int) or told.get("nested_dtype") != "float32":
        raise source.refused(f"{name}: its quant_state has no nested_blocksize, nested_offset and float32 scales")
    source.expect(f"{name}.absmax", (blocks,), torch.uint8)
    source.expect(f"{name}.nested_absmax", (-(-blocks // block),), torch.float32)
    source.expect(f"{name}.nested_quant_map", (256,), torch.float32)
    # The library holds the offset in float32.
    return block, float(torch.tensor(float(offset), dtype=torch.float32))


def _told(source: Source, state: str) -> dict[str, Any]:
    """What the state says, JSON in a tensor of bytes."""
    try:
        told = json_values(bytes(source.whole(state).view(torch.uint8).tolist()))
    except (ValueError, RecursionError) as error:
        raise source.refused(f"{state} is no JSON") from error
    return told if isinstance(told, dict) else {}


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _is_shape(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and bool(value) and all(map(_is_count, value))
