"""The arithmetic of merging: how an update enters a weight, with the roundings of PEFT's own merge.

It works on a block of rows of the stored weight at a time, so that the update is never dense in whole. Only
convolutions, and DoRA over a transposed weight, whose norms run along the columns, are merged in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.layouts import TURNED, Layout
from adaptzip.core.scratch import Scratch
from adaptzip.errors import RefusedError

BLOCK = 2**18
"""Numbers of a weight that are merged at a time: what is made of them on the way stays in a core's own cache."""

LEAST_ROWS = 64
"""Of a block of a matrix. BLAS multiplies fewer by other means, whose sums can end in other bits."""
_ROWS_ARE_OUT = ("linear", "conv", "expert")
_ROUNDED_FIRST = ("embedding", "expert", "expert_transposed")
_scratch = Scratch()
_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def merge_update(
    weight: Tensor,
    factors: LoraFactors,
    layout: Layout,
    *,
    rows: tuple[int, int] | None = None,
    safe: bool = False,
) -> None:
    """Add `scaling * B @ A` to a weight in place, or apply DoRA's magnitude to the sum.

    The product is taken in float32 (float64 for a float64 weight), then scaled, then laid out as the weight.
    By default the sum is rounded once, to the weight's dtype; embeddings and experts round the update first.

    Args:
        weight: contiguous, in the stored layout.
        factors: the update; its own layout is not looked at.
        layout: how the weight is stored.
        rows: the rows of the update that this weight holds, None for all.
        safe: round the update to the weight's dtype before adding it, as PEFT's safe_merge does.

    Raises:
        RefusedError: if DoRA's magnitude is one for each input, and the weight is turned or only some rows.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    if rows is not None and (factors.magnitude is None or factors.magnitude.ndim == 1):
        factors = on_rows(factors, "linear", *rows)
    A, B = factors.A.to(weight.device, dtype), factors.B.to(weight.device, dtype)
    magnitude = None if factors.magnitude is None else factors.magnitude.to(weight.device, dtype)
    by_input = magnitude is not None and magnitude.ndim > 1
    if by_input and (rows is not None or layout not in ("linear", "conv")):
        raise RefusedError(
            "a DoRA magnitude for each input belongs to a whole weight, and the base stores it in parts or turned",
            hint="merge it into the base model in the form that it was trained on",
        )
    whole = layout == "conv" or by_input or (magnitude is not None and layout not in _ROWS_ARE_OUT)
    for part in [slice(None)] if whole else _blocks(weight):
        a, b = (A, B[part]) if layout in _ROWS_ARE_OUT else (A[:, part], B)
        update = _update(a, b, layout, weight.shape[2:]).mul_(factors.scaling)
        if magnitude is None:
            if safe or layout in _ROUNDED_FIRST:
                update = update.to(weight.dtype)
            weight[part] = update.add_(_wide(weight[part], update.dtype))
        elif magnitude.ndim > 1:
            weight[part] = _dora_inputs(weight, update, magnitude)
        elif layout in _ROWS_ARE_OUT:
            weight[part] = _dora_rows(weight[part], update, magnitude[part])
        else:
            weight[part] = _dora_columns(weight, update, magnitude)


def goes_by_rows(factors: LoraFactors, layout: Layout) -> bool:
    """Whether rows of the stored weight are merged alike with the others and without them."""
    magnitude = factors.magnitude
    return layout != "conv" and (magnitude is None or (magnitude.ndim == 1 and layout in _ROWS_ARE_OUT))


def on_rows(factors: LoraFactors, layout: Layout, start: int, stop: int) -> LoraFactors:
    """The part of an update that rows `start` to `stop` of the stored weight have."""
    if layout not in _ROWS_ARE_OUT:
        return replace(factors, A=factors.A[:, start:stop])
    magnitude = None if factors.magnitude is None else factors.magnitude[start:stop]
    return replace(factors, B=factors.B[start:stop], magnitude=magnitude)


def merge_bias(weight: Tensor, bias: Tensor, scaling: float) -> None:
    """Add `scaling * bias` to a base bias in place, rounding once."""
    weight += bias.to(weight.device, torch.promote_types(weight.dtype, torch.float32)) * scaling


def is_finite(weight: Tensor) -> bool:
    """Whether a weight holds neither NaN nor infinity, told by its extremes."""
    weight = weight.to(torch.float32) if weight.dtype.itemsize == 1 and weight.is_floating_point() else weight
    return not weight.numel() or all(bool(end.isfinite()) for end in torch.aminmax(weight))


def _update(A: Tensor, B: Tensor, layout: Layout, kernel: tuple[int, ...]) -> Tensor:
    """B @ A in the layout of the weight, not yet scaled."""
    if layout in TURNED:
        return (B @ A).T
    if layout != "conv":
        return _product(A, B)
    ones = (1,) * len(kernel)
    if kernel == (1, 1):
        return (B @ A).reshape(-1, A.shape[1], 1, 1)
    # A convolution of the factors sums in another order than a product of flat matrices does; PEFT convolves.
    kernels = A.reshape(A.shape[0], -1, *kernel)
    return _CONVOLUTIONS[len(kernel)](kernels.transpose(0, 1), B.reshape(*B.shape, *ones)).transpose(0, 1)


def _product(A: Tensor, B: Tensor) -> Tensor:
    """B @ A; on the CPU good until the next one is taken."""
    if A.device.type != "cpu":
        return B @ A
    return torch.mm(B, A, out=_scratch.take("update", (B.shape[0], A.shape[1]), A.dtype))


def _wide(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in another dtype; likewise."""
    if weight.device.type != "cpu" or weight.dtype == dtype:
        return weight.to(dtype)
    return _scratch.take("weight", weight.shape, dtype).copy_(weight)


def _dora_rows(weight: Tensor, update: Tensor, magnitude: Tensor) -> Tensor:
    total = weight + update
    factor: Tensor = magnitude / torch.linalg.vector_norm(total, dim=tuple(range(1, total.ndim)))
    return factor.reshape(-1, *[1] * (total.ndim - 1)) * total


def _dora_inputs(weight: Tensor, update: Tensor, magnitude: Tensor) -> Tensor:
    """LyCORIS's and OneTrainer's other form: each input has its norm, over the outputs and the kernel."""
    total = weight + update
    norm = torch.linalg.vector_norm(total, dim=(0, *range(2, total.ndim)))
    factor: Tensor = magnitude.reshape(-1) / norm
    return factor.reshape(1, -1, *[1] * (total.ndim - 2)) * total


def _dora_columns(weight: Tensor, update: Tensor, magnitude: Tensor) -> Tensor:
    factor: Tensor = magnitude / torch.linalg.vector_norm(weight.T + update.T, dim=1)
    return factor * (weight + update)


def row_blocks(shape: Sequence[int], numbers: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, the first and past the last, of about so many numbers each; none of an empty weight.

    Matrices are cut into blocks of `LEAST_ROWS` or more, unless they have fewer.
    """
    size = torch.Size(shape).numel()
    if not size:
        return
    least = LEAST_ROWS if len(shape) == 2 else 1
    step = max(1, numbers * shape[0] // size // least) * least
    starts = range(0, max(1, shape[0] - least + 1), step)
    yield from zip(starts, [*starts[1:], shape[0]], strict=True)


def _blocks(weight: Tensor) -> Iterator[slice]:
    return (slice(*rows) for rows in row_blocks(weight.shape, BLOCK))
