"""compressed-tensors: packed integers, and integers or eight-bit floats stored one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptzip.core.patterns.matching import is_pattern, match
from adaptzip.models.dequantising.grids import Grid, by_row, over_all
from adaptzip.models.dequantising.packing import unpacked, words_of
from adaptzip.models.dequantising.scaled import FLOAT8, Scaled
from adaptzip.models.dequantising.source import Found, Source, setting

_FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision", "dense")
_WHOLE = (torch.int8,)
_SCALES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight of integers that lie in 32-bit words, row by row, as compressed-tensors packs them.

    Attributes:
        form: its scales and zero points, and the arithmetic.
        module: the module's name.
        bits: of a number.
        groups: the group of each input, where groups are no neighbours.
        packed_zeros: zero points are packed as well, down the rows.
    """

    form: Scaled
    module: str
    bits: int
    groups: Tensor | None
    packed_zeros: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.form.grid.shape

    def rows(self, first: int, last: int) -> Tensor:
        source, grid, kind = self.form.source, self.form.grid, self.form.arithmetic
        words = source.part(self.form.name, (first, last))
        numbers = (unpacked(words, self.bits, grid.shape[1]) - self._middle).to(kind)
        if self.form.zero is not None:
            numbers = numbers - self._over(self._zeros(first, last).to(kind), first, last)
        scales = grid.read(source, self.form.scale, first, last).to(kind)
        return (numbers * self._over(scales, first, last)).to(torch.float32)

    @property
    def _middle(self) -> int:
        return 1 << (self.bits - 1)

    def _over(self, scales: Tensor, first: int, last: int) -> Tensor:
        return self.form.grid.spread(scales, first, last) if self.groups is None else scales[:, self.groups]

    def _zeros(self, first: int, last: int) -> Tensor:
        name, source = str(self.form.zero), self.form.source
        if not self.packed_zeros:
            return self.form.grid.read(source, name, first, last)
        begin, end, start = words_of(first, last, self.bits)
        words = source.part(name, (begin, end))
        return (unpacked(words.T.contiguous(), self.bits, last - start)[:, first - start :] - self._middle).T


def find_compressed(source: Source, settings: Mapping[str, object]) -> Iterator[Found]:
    """The weights of a model that compressed-tensors wrote.

    Raises:
        RefusedError: if one is of a format that is not read, or its tensors do not fit its settings.
    """
    setting(source, settings, "format", _FORMATS)
    setting(source, settings, "quantization_status", ("compressed",))
    sparsity = settings.get("sparsity_config")
    setting(source, sparsity if isinstance(sparsity, dict) else {}, "format", ("dense",))
    if settings.get("transform_config"):
        raise source.refused("quantization_config has a transform_config: its weights are rotated")
    for name in [n for n in source.shards if n.endswith((".weight_packed", ".weight"))]:
        module = name.rpartition(".")[0]
        if name.endswith(".weight_packed") or source.stored(name).dtype in (*_WHOLE, *FLOAT8):
            args = _args(source, settings, module)
            yield _packed(source, module, args) if name.endswith("_packed") else _plain(source, module, args)


def _args(source: Source, settings: Mapping[str, object], module: str) -> Mapping[str, Any]:
    """How the weights of a module are quantised."""
    groups = settings.get("config_groups")
    found = [g for g in groups.values() if isinstance(g, Mapping)] if isinstance(groups, Mapping) else []
    named = [group for group in found if any(_names(target, module) for target in _targets(group))]
    weights = [group.get("weights") for group in named or found]
    if not weights or not isinstance(weights[0], Mapping) or any(other != weights[0] for other in weights):
        raise source.refused(f"config_groups of quantization_config do not say in one way what {module} is")
    setting(source, next(g for g in named or found), "format", _FORMATS)
    return weights[0]


def _targets(group: Mapping[str, Any]) -> list[str]:
    targets = group.get("targets")
    return [target for target in targets if isinstance(target, str)] if isinstance(targets, list) else []


def _names(target: str, module: str) -> bool:
    """Whether a target is this module's name or a pattern of it; classes such as `Linear` are not."""
    if not target.startswith("re:"):
        return target == module
    return is_pattern(target[3:]) and match(target[3:], module) is not None


def _grid(source: Source, module: str, args: Mapping[str, Any], shape: tuple[int, int]) -> Grid:
    strategy, size, block = args.get("strategy"), args.get("group_size"), args.get("block_structure")
    if strategy == "tensor":
        return over_all(shape)
    if strategy == "channel":
        return by_row(shape)
    if strategy == "group" and type(size) is int and size > 0 and shape[1] % size == 0:
        return Grid(shape, 1, size)
    sizes = block if isinstance(block, list) and all(type(b) is int and b > 0 for b in block) else []
    if strategy == "block" and len(sizes) == 2:
        return Grid(shape, sizes[0], sizes[1])
    raise source.refused(
        f"{module} is quantised by strategy {str(strategy)[:40]} with group_size {str(size)[:20]}, "
        "expected tensor, channel, group or block"
    )


def _form(source: Source, module: str, args: Mapping[str, Any], shape: tuple[int, int], name: str) -> Scaled:
    scale, zero = f"{module}.weight_scale", f"{module}.weight_zero_point"
    grid = _grid(source, module, args, shape)
    grid.check(source, scale)
    kind = source.stored(scale).dtype
    if kind not in _SCALES:
        raise source.refused(f"{scale} is {kind}, expected float32, bfloat16 or float16")
    return Scaled(source, name, grid, scale, None if args.get("symmetric", True) else zero, kind)


def _plain(source: Source, module: str, args: Mapping[str, Any]) -> Found:
    name = f"{module}.weight"
    shape, dtype = tuple(source.stored(name).shape), source.stored(name).dtype
    kind = ("int", 8) if dtype in _WHOLE else ("float", 8)
    if len(shape) != 2 or (args.get("type"), args.get("num_bits")) != kind:
        raise source.refused(
            f"{name} is {list(shape)} {dtype}, expected a matrix of {args.get('num_bits')} bits, {args.get('type')}"
        )
    form = _form(source, module, args, (shape[0], shape[1]), name)
    if form.zero is not None:
        form.grid.check(source, form.zero)
    companions = [part for part in (form.scale, form.zero) if part is not None]
    return Found(name, name, tuple(companions), form)


def _packed(source: Source, module: str, args: Mapping[str, Any]) -> Found:
    name, told, order = f"{module}.weight_packed", f"{module}.weight_shape", f"{module}.weight_g_idx"
    source.expect(told, (2,))
    out, width = (int(n) for n in source.whole(told).tolist())
    bits = args.get("num_bits")
    if args.get("type") != "int" or type(bits) is not int or not 1 <= bits <= 8:
        raise source.refused(f"{name} is of {str(bits)[:20]} bits, {str(args.get('type'))[:20]}, expected 1 to 8, int")
    source.expect(name, (out, -(-width * bits // 32)), torch.int32)
    form = _form(source, module, args, (out, width), name)
    packed = args.get("strategy") in ("group", "channel")
    if form.zero is not None and packed:
        source.expect(form.zero, (-(-out * bits // 32), form.grid.counts[1]), torch.int32)
    elif form.zero is not None:
        form.grid.check(source, form.zero)
    companions = [part for part in (form.scale, form.zero, told, order) if part is not None and part in source]
    groups = _groups(source, order, form.grid) if order in source else None
    return Found(f"{module}.weight", name, tuple(companions), Packed(form, module, bits, groups, packed))


def _groups(source: Source, name: str, grid: Grid) -> Tensor | None:
    """The group of each input where a tensor tells it; it holds -1 where it was never set."""
    source.expect(name, (grid.shape[1],), torch.int32, torch.int64)
    groups = source.whole(name).to(torch.int64)
    if bool((groups == -1).all()):
        return None
    if not 0 <= int(groups.min()) <= int(groups.max()) < grid.counts[1] or grid.height != 1:
        raise source.refused(f"{name} names groups that {list(grid.counts)} scales do not have")
    return groups
