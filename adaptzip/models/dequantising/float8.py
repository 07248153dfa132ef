"""Eight-bit floats with scales as DeepSeek, FBGEMM and ModelOpt write them, and without any."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptzip.models.dequantising.grids import Grid, by_row, over_all
from adaptzip.models.dequantising.scaled import FLOAT8, Scaled
from adaptzip.models.dequantising.source import Finder, Found, Source, setting

_SCALES = (torch.float32, torch.bfloat16, torch.float16)
_BLOCK = 128
"""What transformers takes where config.json says no size."""
_GridOf = Callable[[tuple[int, int]], Grid]


@dataclass(frozen=True, eq=False)
class Unscaled:
    """A weight whose eight-bit floats are its numbers."""

    source: Source
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.source.stored(self.name).shape)

    def rows(self, first: int, last: int) -> Tensor:
        return self.source.part(self.name, (first, last)).to(torch.float32)


def find_fine_grained(source: Source, settings: Mapping[str, object]) -> Iterator[Found]:
    """The weights of DeepSeek's form, a scale for each block or each matrix, or AutoFP8's, one for each matrix.

    Raises:
        RefusedError: if one has other scales.
    """
    setting(source, settings, "fmt", ("e4m3", "float8_e4m3fn"))
    block = settings.get("weight_block_size", [_BLOCK, _BLOCK])
    inverse = any(name.endswith(".weight_scale_inv") for name in source.shards)
    if block is None or not inverse:
        return _scaled(source, "weight_scale_inv" if inverse else "weight_scale", over_all)
    if not isinstance(block, list) or len(block) != 2 or not all(type(size) is int and size > 0 for size in block):
        raise source.refused(f"quantization_config says weight_block_size {str(block)[:40]}, expected two numbers")
    height, width = block
    return _scaled(source, "weight_scale_inv", lambda shape: Grid(shape, height, width))


def find_fbgemm(source: Source, settings: Mapping[str, object]) -> Iterator[Found]:
    """The weights of FBGEMM's form: a scale for each row."""
    return _scaled(source, "weight_scale", by_row)


def find_modelopt(source: Source, settings: Mapping[str, object]) -> Iterator[Found]:
    """The weights of ModelOpt's form: a scale for each matrix.

    Raises:
        RefusedError: if they are of another of its forms, such as NVFP4.
    """
    setting(source, settings, "quant_algo", ("FP8",))
    return _scaled(source, "weight_scale", over_all)


def find_without_scales(source: Source, settings: Mapping[str, object]) -> Iterator[Found]:
    """Eight-bit floats that are the weights themselves, which no configuration has to tell."""
    for name, shard in source.shards.items():
        if shard.tensors[name].dtype in FLOAT8 and shard.tensors[name].shape and not _companions(source, name):
            yield Found(name, name, (), Unscaled(source, name))


def _companions(source: Source, name: str) -> list[str]:
    module = name.rpartition(".")[0]
    ends = ("weight_scale", "weight_scale_inv", "weight_scale_2", "scale_weight", "scale_input", "scale", "input_scale")
    return [f"{module}.{end}" for end in ends if f"{module}.{end}" in source] + [
        f"{name}{end}" for end in ("_scale", "_scale_inv") if f"{name}{end}" in source
    ]


def _scaled(source: Source, ending: str, grid_of: _GridOf) -> Iterator[Found]:
    for name in [n for n in source.shards if n.endswith(".weight") and source.stored(n).dtype in FLOAT8]:
        shape, scale = tuple(source.stored(name).shape), f"{name.rpartition('.')[0]}.{ending}"
        if len(shape) != 2:
            raise source.refused(f"{name} is {list(shape)}, expected a matrix")
        grid = grid_of((shape[0], shape[1]))
        grid.check(source, scale)
        if source.stored(scale).dtype not in _SCALES:
            raise source.refused(f"{scale} is {source.stored(scale).dtype}, expected float32, bfloat16 or float16")
        yield Found(name, name, (scale,), Scaled(source, name, grid, scale))


FINDERS: Mapping[str, Finder] = {
    "fp8": find_fine_grained,
    "fbgemm_fp8": find_fbgemm,
    "modelopt": find_modelopt,
}
"""By quant_method."""
