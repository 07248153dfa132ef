"""ggml's types of tensors: their sizes, and numbers out of their bytes and into them, by the library gguf."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod

import numpy as np
import torch
from torch import Tensor

from adaptzip.checkpoints._gguf.architectures import library

F32, F16, Q8_0, BF16 = 0, 1, 8, 30
FLOATS = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}
_PLAIN = frozenset({*FLOATS, *range(24, 29)})
"""Types of single numbers: the floats, 8 to 64 bit integers and float64."""


def type_name(kind: int) -> str | None:
    """ggml's name of a type, None for one that the library does not know."""
    types = library().GGMLQuantizationType
    return str(types(kind).name) if kind in {int(known) for known in types} else None


def is_quantised(kind: int) -> bool:
    """Whether a type has blocks of numbers instead of single ones."""
    return kind not in _PLAIN


def byte_count(kind: int, shape: Sequence[int]) -> int | None:
    """The bytes of a tensor of a known type; None where its rows are not filled by whole blocks."""
    block, size = library().GGML_QUANT_SIZES[library().GGMLQuantizationType(kind)]
    return None if shape[-1] % block else prod(shape) // block * int(size)


@cache
def is_readable(kind: int) -> bool:
    """Whether the library knows what numbers the bytes of a type stand for."""
    block, size = library().GGML_QUANT_SIZES[library().GGMLQuantizationType(kind)]
    if not is_quantised(kind):
        return kind in FLOATS
    try:
        decoded(kind, bytearray(size), (1, block))
    except NotImplementedError:
        return False
    return True


def decoded(kind: int, data: bytearray, shape: Sequence[int]) -> Tensor:
    """The numbers of whole rows: floats in their own dtype, what is quantised in float32.

    Raises:
        NotImplementedError: if the library cannot read the type.
    """
    if kind in FLOATS:
        return torch.frombuffer(data, dtype=FLOATS[kind]).reshape(*shape)
    rows = np.frombuffer(data, dtype=np.uint8).reshape(prod(shape[:-1]), -1)
    with np.errstate(all="ignore"):  # Damaged blocks hold NaN and infinity, which is looked for afterwards.
        found = library().quants.dequantize(rows, library().GGMLQuantizationType(kind))
    return torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32)).reshape(*shape)


def encoded(kind: int, rows: Tensor) -> memoryview:
    """Whole rows, finite, as bytes of a float type, rounded once, or of Q8_0."""
    if kind in FLOATS:
        return rows.to(FLOATS[kind]).contiguous().reshape(-1).view(torch.uint8).numpy().data
    found = library().quants.quantize(rows.float().contiguous().numpy(), library().GGMLQuantizationType(kind))
    return np.ascontiguousarray(found).reshape(-1).view(np.uint8).data
