"""AWQ: four bits packed along the outputs, eight a word in an order of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.models.dequantising.packing import unpacked
from adaptzip.models.dequantising.source import Found, Source, setting, whole_number

_BITS = 4
_EACH = 8
"""Numbers of a word."""
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word its eight outputs lie: it holds the even ones first."""
_SCALES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, eq=False)
class Awq:
    """A weight of AWQ, (outputs, inputs), with a scale and a zero point for each `size` inputs of an output."""

    source: Source
    module: str
    shape: tuple[int, int]
    size: int

    def rows(self, first: int, last: int) -> Tensor:
        inputs, count = self.shape[1], self.shape[1] // self.size
        numbers = self._numbers("qweight", inputs, first, last)
        zeros = self._numbers("qzeros", count, first, last)
        scales = self.source.part(f"{self.module}.scales", (0, count), (first, last)).to(torch.float32)
        grouped = (numbers.reshape(count, self.size, -1) - zeros[:, None]).to(torch.float32)
        # Of few bits and a short scale: float32 holds the product exactly.
        return (grouped * scales[:, None]).reshape(inputs, -1).T.contiguous()

    def _numbers(self, part: str, rows: int, first: int, last: int) -> Tensor:
        """Some outputs of a packed tensor, (rows, outputs)."""
        begin, end = first // _EACH, -(-last // _EACH)
        words = self.source.part(f"{self.module}.{part}", (0, rows), (begin, end))
        held = unpacked(words, _BITS, (end - begin) * _EACH).reshape(rows, -1, _EACH)
        return held[:, :, list(_PLACES)].reshape(rows, -1)[:, first - begin * _EACH : last - begin * _EACH]


def find_awq(source: Source, settings: Mapping[str, object]) -> Iterator[Found]:
    """The weights of an AWQ model.

    Raises:
        RefusedError: if one is of a layout other than that of AutoAWQ's GEMM.
    """
    for key in ("version", "format"):
        setting(source, settings, key, ("gemm", "GEMM"))
    setting(source, settings, "backend", ("autoawq", "auto"))
    setting(source, settings, "bits" if "bits" in settings else "w_bit", (_BITS,))
    size = whole_number(source, settings, "group_size" if "group_size" in settings else "q_group_size")
    for module in [n.removesuffix(".qweight") for n in source.shards if n.endswith(".qweight")]:
        held = source.stored(f"{module}.qweight")
        if len(held.shape) != 2 or held.dtype != torch.int32:
            raise source.refused(f"{module}.qweight is {list(held.shape)} {held.dtype}, expected a matrix of int32")
        inputs, outputs = held.shape[0], held.shape[1] * _EACH
        each = inputs if size == -1 else size
        if each < 1 or inputs % each:
            raise source.refused(f"{module} has {inputs} inputs, expected a multiple of group_size {size}")
        source.expect(f"{module}.scales", (inputs // each, outputs), *_SCALES)
        source.expect(f"{module}.qzeros", (inputs // each, held.shape[1]), torch.int32)
        names = (f"{module}.qzeros", f"{module}.scales")
        yield Found(f"{module}.weight", f"{module}.qweight", names, Awq(source, module, (outputs, inputs), each))
