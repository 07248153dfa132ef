"""Packing tensors that are not quantised: extras, and the factors of a lossless file."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from adaptzip.adz.coding import planes
from adaptzip.adz.coding.moving import moved, moved_back, steps_of
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.basis import Basis, ModuleBasis
from adaptzip.core.compressed import Buffer, ExtraEntry, PackedExtras, Site
from adaptzip.core.finite import all_finite
from adaptzip.core.layouts import Layout
from adaptzip.errors import FormatError
from adaptzip.files.dtypes import DTYPES, NAMES

ExtrasMode = Literal["lossless", "float16", "bfloat16", "int8"]

INT8_ROWS = "Q8"
"""`stored` of a float tensor kept as int8 with one float32 scale per row."""
MODES: Mapping[str, ExtrasMode] = {"F16": "float16", "BF16": "bfloat16", INT8_ROWS: "int8"}
"""How an extra was asked to be kept, by what it is kept as; without loss where that is not here."""
_ROUNDED = ("F64", "F32", "F16", "BF16")
"""Dtypes that may be kept as another one."""
_CODES = tuple(DTYPES)
_DIVERGED = "the training diverged; compress an earlier save of the adapter"
_EXACT = struct.Struct("<dIBBBB")
EXPANSION = 65536
"""Most bytes that one stored byte may unpack to: what all-zero tensors need, and a bound for hostile files."""


@dataclass(frozen=True)
class _Part:
    """One array of a packed tensor: the group it is packed with and its number of elements."""

    group: str
    count: int


def pack_tensors(tensors: Sequence[tuple[str, str, Tensor]], mode: ExtrasMode = "lossless") -> PackedExtras:
    """Pack (role, name, tensor) triples. `mode` other than "lossless" rounds floating-point tensors."""
    entries = []
    groups: dict[str, list[Tensor]] = {}
    for role, name, tensor in tensors:
        stored, arrays = _store(tensor.detach().cpu(), mode)
        entries.append(ExtraEntry(role, name, NAMES[tensor.dtype], tuple(tensor.shape), stored))
        for group, array in arrays:
            groups.setdefault(group, []).append(array)
    payload = b"".join(_pack_group(group, groups[group]) for group in sorted(groups))
    return PackedExtras(tuple(entries), payload)


def unpack_tensors(packed: PackedExtras) -> list[Tensor]:
    """The tensors in the order of the entries, in their own dtypes.

    Raises:
        FormatError: if the payload is damaged or does not hold what the entries say.
    """
    totals: dict[str, int] = {}
    for entry in packed.entries:
        for part in _parts(entry):
            totals[part.group] = totals.get(part.group, 0) + part.count
    expected = sum(count * DTYPES[group].itemsize for group, count in totals.items())
    if expected > EXPANSION * len(packed.payload) + 2**20:
        raise FormatError(f"packed tensors: {len(packed.payload)} bytes cannot hold {expected}")
    arrays = _unpack_groups(packed.payload, totals)
    position = dict.fromkeys(totals, 0)
    result = []
    for entry in packed.entries:
        found = []
        for part in _parts(entry):
            start = position[part.group]
            position[part.group] = start + part.count
            found.append(arrays[part.group][start : start + part.count])
        result.append(_restore(entry, found))
    return result


def pack_factors(module: LoraFactors, first: Tensor | None = None) -> bytes:
    """A module's factors and scaling, exactly: the block of a lossless file.

    Args:
        first: what A began with, in its dtype: how far each number moved is stored in place of A.
    """
    codes = [_CODES.index(NAMES[t.dtype]) for t in (module.A, module.B)]
    A = module.A if first is None else moved(module.A.detach().cpu(), first)
    packed = pack_tensors([("factor", "A", A), ("factor", "B", module.B)])
    stored = [_CODES.index(entry.stored) for entry in packed.entries]
    return _EXACT.pack(module.scaling, module.rank, *codes, *stored) + bytes(packed.payload)


def packed_rank(chunk: Buffer) -> int:
    """The rank that a module's block says it has, not checked; 0 where it is truncated."""
    return int(_EXACT.unpack(chunk[: _EXACT.size])[1]) if len(chunk) >= _EXACT.size else 0


def unpack_factors(
    chunk: Buffer, site: Site, name: str, first: Callable[[int, torch.dtype], Tensor] | None = None
) -> LoraFactors:
    """Inverse of `pack_factors`, without magnitude and bias.

    Args:
        first: what A of a rank and dtype began with, where the block holds how far it moved.

    Raises:
        FormatError: if the block is damaged.
    """
    if len(chunk) < _EXACT.size:
        raise FormatError(f"module {name!r}: its block is truncated")
    scaling, rank, *codes = _EXACT.unpack(chunk[: _EXACT.size])
    if max(codes) >= len(_CODES) or not isfinite(scaling):
        raise FormatError(f"module {name!r}: its block has an unknown dtype or an impossible scaling")
    dtypes = [_CODES[code] for code in codes]
    if any(dtype not in _ROUNDED for dtype in dtypes[:2]):
        kinds = " and ".join(sorted(set(dtypes[:2])))
        raise FormatError(f"module {name!r}: its factors are {kinds}, expected {', '.join(_ROUNDED)}")
    held = dtypes[0] if first is None else NAMES[steps_of(DTYPES[dtypes[0]])]
    entries = (
        ExtraEntry("factor", "A", held, (rank, site.width), dtypes[2]),
        ExtraEntry("factor", "B", dtypes[1], (site.out, rank), dtypes[3]),
    )
    A, B = unpack_tensors(PackedExtras(entries, chunk[_EXACT.size :]))
    if first is not None:
        A = moved_back(A, first(rank, DTYPES[dtypes[0]]))
    check_finite(A, f"A of module {name!r}")
    check_finite(B, f"B of module {name!r}")
    return LoraFactors(A, B, scaling, cast("Layout", site.layout), site.kernel)


def check_finite(tensor: Tensor, what: str) -> None:
    """Raises: FormatError: if a floating-point tensor holds NaN or infinity."""
    if not all_finite(tensor):
        raise FormatError(f"{what} holds NaN or infinity", hint=_DIVERGED)


def pack_basis(basis: Basis, sites: Mapping[str, Site]) -> tuple[tuple[int, ...], bytes]:
    """Directions of each module in the order of `sites`, and all of them packed as float16."""
    modules = [basis.modules[name] for name in sites]
    tensors = [("basis", "", tensor.half()) for module in modules for tensor in (module.U, module.V)]
    return tuple(module.U.shape[1] for module in modules), bytes(pack_tensors(tensors).payload)


def unpack_basis(sizes: Sequence[int], payload: Buffer, sites: Mapping[str, Site]) -> dict[str, ModuleBasis]:
    """Inverse of `pack_basis`; float32.

    Raises:
        FormatError: if the payload is damaged or does not hold what the sizes say.
    """
    entries = []
    for size, (name, site) in zip(sizes, sites.items(), strict=True):
        if size > max(site.out, site.width):
            raise FormatError(f"module {name!r}, {site.out} x {site.width}, cannot have a basis of {size} directions")
        entries += [ExtraEntry("basis", name, "F16", (length, size), "F16") for length in (site.out, site.width)]
    tensors = [tensor.float() for tensor in unpack_tensors(PackedExtras(tuple(entries), payload))]
    return {name: ModuleBasis(tensors[2 * i], tensors[2 * i + 1]) for i, name in enumerate(sites)}


def narrowest(tensor: Tensor) -> torch.dtype:
    """The narrowest of bfloat16, float16 and its own dtype that holds a float32 tensor exactly, bit for bit.

    NaN stays as it is: machines do not agree on what becomes of its bits.
    """
    if tensor.dtype is torch.float32 and tensor.numel() and not bool(tensor.isnan().any()):
        for dtype in (torch.bfloat16, torch.float16):
            if torch.equal(tensor.to(dtype).float().view(torch.int32), tensor.view(torch.int32)):
                return dtype
    return tensor.dtype


def _store(tensor: Tensor, mode: ExtrasMode) -> tuple[str, list[tuple[str, Tensor]]]:
    tensor = tensor.contiguous()
    wide = tensor.is_floating_point() and tensor.dtype.itemsize > 1
    if mode == "lossless" or not wide or bool(tensor.isnan().any()):
        return _as(tensor, narrowest(tensor))
    if mode == "int8" and tensor.ndim >= 2 and tensor.numel():
        rows = tensor.float().reshape(tensor.shape[0], -1)
        if bool(rows.isfinite().all()):
            return INT8_ROWS, _int8_rows(rows)
    dtype = torch.bfloat16 if mode == "bfloat16" else torch.float16
    dtype = min((dtype, narrowest(tensor)), key=lambda d: d.itemsize)
    if not torch.equal(tensor.to(dtype).isinf(), tensor.isinf()):
        return _as(tensor, tensor.dtype)
    return _as(tensor, dtype)


def _as(tensor: Tensor, dtype: torch.dtype) -> tuple[str, list[tuple[str, Tensor]]]:
    return NAMES[dtype], [(NAMES[dtype], tensor.to(dtype))]


def _int8_rows(rows: Tensor) -> list[tuple[str, Tensor]]:
    scale = rows.abs().amax(1) / 127
    levels = torch.where(scale[:, None] > 0, rows / scale[:, None], 0.0).round().to(torch.int8)
    return [("F32", scale), ("I8", levels)]


def _parts(entry: ExtraEntry) -> list[_Part]:
    count = prod(entry.shape)
    if not _storable(entry, count):
        raise FormatError(f"packed tensor {entry.name!r}: {entry.dtype} cannot be kept as {entry.stored}")
    if entry.stored == INT8_ROWS:
        return [_Part("F32", entry.shape[0]), _Part("I8", count)]
    return [_Part(entry.stored, count)]


def _storable(entry: ExtraEntry, count: int) -> bool:
    """Whether the format lets a tensor be kept in the way that its entry says."""
    if entry.stored == entry.dtype:
        return entry.dtype in DTYPES
    if entry.dtype not in _ROUNDED:
        return False
    return entry.stored in ("F16", "BF16") or (entry.stored == INT8_ROWS and len(entry.shape) >= 2 and count > 0)


def _restore(entry: ExtraEntry, arrays: list[Tensor]) -> Tensor:
    dtype = DTYPES[entry.dtype]
    if entry.stored != entry.dtype and bool(arrays[0].isnan().any()):
        raise FormatError(f"packed tensor {entry.name!r} is kept as {entry.stored} but holds NaN")
    if entry.stored == INT8_ROWS:
        scale, levels = arrays
        if not bool(scale.isfinite().all()):
            raise FormatError(f"packed tensor {entry.name!r} has an infinite scale")
        return (levels.float().reshape(len(scale), -1) * scale[:, None]).reshape(entry.shape).to(dtype)
    return arrays[0].reshape(entry.shape).to(dtype)


def _unsigned(dtype: torch.dtype) -> np.dtype[Any]:
    return np.dtype(f"u{dtype.itemsize}")


def _rotated(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype.itemsize > 1


def _pack_group(group: str, tensors: list[Tensor]) -> bytes:
    dtype = DTYPES[group]
    flat = torch.cat([t.reshape(-1).view(torch.uint8) if t.numel() else _NO_BYTES for t in tensors])
    return planes.pack(flat.numpy().view(_unsigned(dtype)), floating=_rotated(dtype))


_NO_BYTES = torch.empty(0, dtype=torch.uint8)


def _unpack_groups(payload: Buffer, totals: Mapping[str, int]) -> dict[str, Tensor]:
    arrays, position = {}, 0
    view = memoryview(payload)
    for group in sorted(totals):
        dtype = DTYPES[group]
        words, size = planes.unpack(view[position:], totals[group], _unsigned(dtype), floating=_rotated(dtype))
        if group == "BOOL" and words.size and words.max() > 1:
            raise FormatError("packed tensors hold a BOOL that is neither 0 nor 1")
        arrays[group] = torch.from_numpy(np.ascontiguousarray(words).view(np.uint8)).view(dtype)
        position += size
    if position != len(view):
        raise FormatError("packed tensors: bytes are left over")
    return arrays
