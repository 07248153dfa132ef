"""GPTQ: columns of inputs packed along the inputs, with scales and zero points for groups of inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.models.dequantising.packing import WORD, unpacked, words_of
from adaptzip.models.dequantising.source import Found, Source, setting, whole_number

_BITS = (2, 3, 4, 8)
_SCALES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, eq=False)
class Gptq:
    """A weight of GPTQ.

    Attributes:
        source: the model's tensors.
        module: the module's name.
        shape: the weight's, (outputs, inputs).
        bits: of a number.
        groups: the group of each input.
        added: what is added to a stored zero point: 1 in the first version of the format.
    """

    source: Source
    module: str
    shape: tuple[int, int]
    bits: int
    groups: Tensor
    added: int

    def rows(self, first: int, last: int) -> Tensor:
        inputs, count = self.shape[1], int(self.source.stored(f"{self.module}.scales").shape[0])
        words = self.source.part(f"{self.module}.qweight", (0, inputs * self.bits // WORD), (first, last))
        numbers = unpacked(words.T.contiguous(), self.bits, inputs)
        begin, end, start = words_of(first, last, self.bits)
        packed = self.source.part(f"{self.module}.qzeros", (0, count), (begin, end))
        zeros = self._zeros(unpacked(packed, self.bits, last - start)[:, first - start :])
        scales = self.source.part(f"{self.module}.scales", (0, count), (first, last)).to(torch.float32)
        # Of few bits and a short scale: float32 holds the product exactly.
        return (numbers - zeros.T[:, self.groups]).to(torch.float32) * scales.T[:, self.groups]

    def _zeros(self, stored: Tensor) -> Tensor:
        """The zero points, (groups, outputs)."""
        if self.added and bool((stored == (1 << self.bits) - 1).any()):
            raise self.source.refused(
                f"{self.module}.qzeros holds {(1 << self.bits) - 1}: some programs read it as a zero point of "
                f"{1 << self.bits}, others as 0"
            )
        return stored + self.added


def find_gptq(source: Source, settings: Mapping[str, object]) -> Iterator[Found]:
    """The weights of a GPTQ model.

    Raises:
        RefusedError: if one is of a layout that is not GPTQ's own.
    """
    setting(source, settings, "checkpoint_format", ("gptq", "gptq_v2"))
    setting(source, settings, "format", ("gptq", "gptq_v2"))
    setting(source, settings, "pack_dtype", ("int32",))
    bits, size = whole_number(source, settings, "bits"), whole_number(source, settings, "group_size")
    setting(source, settings, "bits", _BITS)
    told = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    added = 1 if told == "gptq" else 0
    for module in [n.removesuffix(".qweight") for n in source.shards if n.endswith(".qweight")]:
        shape = _shape(source, module, bits)
        groups = _groups(source, module, shape, size)
        names = [f"{module}.{end}" for end in ("qzeros", "scales", "g_idx") if f"{module}.{end}" in source]
        decoder = Gptq(source, module, shape, bits, groups, added)
        yield Found(f"{module}.weight", f"{module}.qweight", tuple(names), decoder)


def _shape(source: Source, module: str, bits: int) -> tuple[int, int]:
    held = source.stored(f"{module}.qweight")
    if len(held.shape) != 2 or held.dtype != torch.int32 or held.shape[0] * WORD % bits:
        raise source.refused(f"{module}.qweight is {list(held.shape)} {held.dtype}, expected a matrix of int32 words")
    return held.shape[1], held.shape[0] * WORD // bits


def _groups(source: Source, module: str, shape: tuple[int, int], size: int) -> Tensor:
    """The group of each input."""
    outputs, inputs = shape
    bits = source.stored(f"{module}.qweight").shape[0] * WORD // inputs
    size = inputs if size == -1 else size
    count = -(-inputs // max(1, size))
    source.expect(f"{module}.scales", (count, outputs), *_SCALES)
    source.expect(f"{module}.qzeros", (count, -(-outputs * bits // WORD)), torch.int32)
    plain = torch.arange(inputs) // max(1, size)
    if f"{module}.g_idx" not in source:
        return plain
    source.expect(f"{module}.g_idx", (inputs,), torch.int32, torch.int64)
    groups = source.whole(f"{module}.g_idx").to(torch.int64)
    if inputs and not 0 <= int(groups.min()) <= int(groups.max()) < count:
        raise source.refused(
            f"{module}.g_idx holds {int(groups.min())} to {int(groups.max())}, expected 0 to {count - 1}"
        )
    return groups
