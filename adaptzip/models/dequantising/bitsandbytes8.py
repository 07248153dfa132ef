"""bitsandbytes' eight bits: whole numbers, and for each row the largest magnitude, which 127 stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.models.dequantising.source import Found, Source

_SHARE = 7.874015718698502e-3
"""1 / 127 as the library has it, which it rounds to float32 when it multiplies."""


@dataclass(frozen=True, eq=False)
class EightBits:
    """A weight of int8, and a largest magnitude for each row."""

    source: Source
    name: str
    largest: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.source.stored(self.name).shape)

    def rows(self, first: int, last: int) -> Tensor:
        numbers = self.source.part(self.name, (first, last))
        return numbers * self.source.part(self.largest, (first, last)).view(-1, 1) * _SHARE


def find_eight_bits(source: Source, settings: Mapping[str, object]) -> Iterator[Found]:
    """The weights that bitsandbytes stored in eight bits.

    Raises:
        RefusedError: if one is incomplete, or does not lie row by row.
    """
    for module in [n.removesuffix(".SCB") for n in source.shards if n.endswith(".SCB")]:
        name, largest, layout = f"{module}.weight", f"{module}.SCB", f"{module}.weight_format"
        shape = tuple(source.stored(name).shape)
        if len(shape) != 2:
            raise source.refused(f"{name} is {list(shape)}, expected a matrix")
        source.expect(name, shape, torch.int8)
        source.expect(largest, shape[:1], torch.float32)
        if layout in source and source.whole(layout).reshape(-1).tolist() != [0]:
            raise source.refused(f"{layout} says that {name} is tiled for a GPU, expected 0 for row by row")
        yield Found(name, name, (largest, *((layout,) if layout in source else ())), EightBits(source, name, largest))
