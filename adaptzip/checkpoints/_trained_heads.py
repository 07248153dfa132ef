"""Whole layers that LoRETTA saves as tensor trains beside its factors, such as a classifier's dense layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt, prod
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.checkpoints._keys import PREFIX
from adaptzip.errors import CheckpointError, RefusedError

_CORE = re.compile(re.escape(PREFIX) + r"(?P<layer>.+)\.layer\.tensor\.factors\.(?P<number>\d{1,4})")
_NOT_WHOLE = (".lora_", ".adapter_down", ".adapter_up")
_NUMBERS = 2**28
"""More numbers than such a layer has: what damaged shapes must not make us compute."""
_AGAIN = "save the adapter again"


def with_whole_layers(tensors: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """The tensors of a file with every tensorised layer as the weight (out, in) and the bias that it stands for.

    The layer computes x M + bias, where M (in, out) has the train's numbers in row-major order.

    Raises:
        CheckpointError: if the cores do not fit together.
        RefusedError: if the layer's widths cannot be told.
    """
    layers: dict[str, dict[int, str]] = {}
    for key in tensors:
        found = _CORE.fullmatch(key)
        if found is not None and not any(part in key for part in _NOT_WHOLE):
            layers.setdefault(found["layer"], {})[int(found["number"])] = key
    whole = dict(tensors)
    for layer, keys in layers.items():
        bias = whole.pop(f"{PREFIX}{layer}.layer.bias", None)
        matrix = train_matrix({i: whole.pop(key) for i, key in keys.items()}, f"{where}: layer {layer}")
        out = _out(matrix, bias, f"{where}: layer {layer}")
        whole[f"{PREFIX}{layer}.weight"] = matrix.reshape(-1, out).T.contiguous()
        if bias is not None:
            whole[f"{PREFIX}{layer}.bias"] = bias
    return whole


def train_matrix(train: Mapping[int, Tensor], where: str) -> Tensor:
    """All numbers of a train, whose cores are given by position, in row-major order, float32.

    Raises:
        CheckpointError: if the cores do not fit together, or are not finite.
    """
    numbers = sorted(train)
    cores = [train[i] for i in numbers]
    ranks = [1, *(core.shape[-1] for core in cores if core.ndim == 3)]
    fits = all(core.ndim == 3 and core.shape[0] == ranks[i] for i, core in enumerate(cores))
    if not fits or not cores or numbers != list(range(len(cores))) or ranks[-1] != 1:
        raise CheckpointError(
            f"{where}: the cores {numbers} are {[list(core.shape) for core in cores]}, expected 0, 1, ... of shapes "
            "(rank, mode, rank) that fit together",
            hint=_AGAIN,
        )
    if prod(core.shape[1] for core in cores) > _NUMBERS or not all(bool(torch.isfinite(core).all()) for core in cores):
        raise CheckpointError(f"{where}: its cores are too large, or hold NaN or infinity", hint="use another save")
    product = torch.ones(1, 1, dtype=torch.float64)
    for core in cores:
        product = (product @ core.double().flatten(1)).reshape(-1, core.shape[2])
    return product.flatten().float()


def _out(matrix: Tensor, bias: Tensor | None, where: str) -> int:
    """The layer's width after it: as long as its bias, else as before it."""
    numbers = matrix.numel()
    out = isqrt(numbers) if bias is None else bias.numel()
    if not numbers or not out or numbers % out or (bias is None and out * out != numbers):
        raise RefusedError(
            f"{where}: is a tensorised layer of {numbers} numbers, whose widths nothing in the file tells",
            hint="save the adapter with that layer's bias, or the layer as a plain weight",
        )
    return out
