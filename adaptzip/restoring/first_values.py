"""What A began with, for lossless files that hold how far it moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from adaptzip.bases.frames import check_numbers, first_values, start_numbers
from adaptzip.core.compressed import Compressed
from adaptzip.errors import FormatError


def first_values_of(compressed: Compressed, names: Sequence[str]) -> Mapping[str, Callable[[int, torch.dtype], Tensor]]:
    """What A began with, by rank and dtype, of those modules of a lossless file that hold the steps it moved.

    Raises:
        FormatError: if the start is malformed, out of bounds, or too much work for so small a file.
    """
    if compressed.basis is None:
        return {}
    start = compressed.basis.start
    if start is None or compressed.basis.source != "start":
        raise FormatError("metadata: a lossless file has no use for a 'basis' but a start")
    check_numbers(compressed.basis_sizes, compressed.sites, compressed.module_bytes)
    sizes = {name: size for name, size in zip(compressed.sites, compressed.basis_sizes, strict=True) if size}
    numbers = start_numbers(start, compressed.sites, sizes, only=names)
    return {name: partial(_as_stored, first_values(start.generator, found), name) for name, found in numbers}


def _as_stored(values: Tensor, name: str, rank: int, dtype: torch.dtype) -> Tensor:
    if len(values) != rank:
        raise FormatError(f"module {name!r} has rank {rank}, and begins with {len(values)} rows")
    return values.to(dtype)
