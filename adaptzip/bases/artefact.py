"""The `.basis` file: one basis that many compressed adapters refer to by its hash (formats/basis-1.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from adaptzip.core.basis import Basis, BasisReference, ModuleBasis
from adaptzip.errors import CheckpointError, FormatError, RefusedError, UsageError
from adaptzip.files import strict_json
from adaptzip.files.atomic import atomic_file
from adaptzip.files.digest import digest
from adaptzip.files.dtypes import NAMES
from adaptzip.files.tensors import build_header, pending, write_tensors
from adaptzip.files.weights import open_weights

FORMAT = 1
KEY = "adaptzip-basis"
"""The one key in the safetensors metadata."""
MOST_DIRECTIONS = 2**20
BasisDtype = Literal["float32", "float16"]
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_MOST_TEXT = 1000
_MEAN = "mean"


def round_basis(basis: Basis, dtype: torch.dtype) -> Basis:
    """The basis as it is after it was stored in `dtype`: rounded, and float32 again. Rounding twice changes nothing.

    The columns are then orthonormal to the rounding of `dtype` only, which `bases.projection` allows for.
    """
    modules = {
        name: ModuleBasis(module.U.to(dtype).float(), module.V.to(dtype).float(), module.mean)
        for name, module in basis.modules.items()
    }
    return replace(basis, modules=modules)


def write_basis(
    basis: Basis, path: str | Path, force: bool = False, *, dtype: BasisDtype = "float32"
) -> BasisReference:
    """Write a basis as a file of its own, all or nothing; equal input gives equal bytes.

    Args:
        dtype: of the numbers; float16 halves the file and moves the directions by 3e-4.

    Returns:
        What an adapter that is compressed with the file says of it.

    Raises:
        UsageError: if the basis is empty, or `dtype` is unknown.
        OutputError: if `path` exists without `force` or cannot be written.
    """
    if dtype not in _DTYPES:
        raise UsageError(f"basis dtype {dtype!r} is unknown", hint=f"known: {', '.join(_DTYPES)}")
    if not basis.modules:
        raise UsageError("the basis has no modules, so there is nothing to write")
    tensors = _named(basis.modules, _DTYPES[dtype])
    size = max(module.size for module in basis.modules.values())
    reference = BasisReference("file", size, _content(tensors), basis.reference.description)
    waiting = {key: pending(tensor) for key, tensor in tensors.items()}
    header = build_header(waiting, {KEY: _metadata(reference)})
    with atomic_file(path, force) as handle:
        write_tensors(handle, waiting, header)
    return reference


def is_basis(path: str | Path) -> bool:
    """Whether a file calls itself a basis artefact, by its name or its metadata."""
    path = Path(path)
    if path.is_dir() or path.suffix == ".basis":
        return not path.is_dir()
    try:
        return KEY in open_weights(path).metadata
    except (CheckpointError, OSError):
        return False


def read_basis(path: str | Path) -> Basis:
    """Read a `.basis` file, as if whoever made it meant harm.

    Raises:
        FormatError: if it is missing, no such file, or damaged.
        RefusedError: if a newer version made it.
    """
    path = Path(path)
    try:
        opened = open_weights(path)
    except CheckpointError as error:
        raise FormatError(str(error), hint="give a file that `adaptzip basis build` wrote") from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    if opened.metadata.keys() != {KEY} or not isinstance(opened.metadata[KEY], str):
        raise FormatError(f"{path}: is no basis", hint="give a file that `adaptzip basis build` wrote")
    reference = _parse(path, opened.metadata[KEY])
    modules = _modules(path, opened.tensors)
    if reference.size != max((module.size for module in modules.values()), default=0):
        raise FormatError(f"{path}: its size is {reference.size}, which is not that of its modules")
    if _content(opened.tensors) != reference.hash:
        raise FormatError(f"{path}: is damaged: its hash does not match", hint="fetch it again")
    return Basis(modules, reference)


def _named(modules: Mapping[str, ModuleBasis], dtype: torch.dtype) -> dict[str, Tensor]:
    """What is stored; a mean, which is small and of any magnitude, always as float32."""
    found = {}
    for name, module in sorted(modules.items()):
        found[f"{name}.U"], found[f"{name}.V"] = (side.to("cpu", dtype) for side in (module.U, module.V))
        if module.mean is not None:
            found[f"{name}.{_MEAN}"] = module.mean.to("cpu", torch.float32)
    return found


def _metadata(reference: BasisReference) -> str:
    value = {
        "description": reference.description[:_MOST_TEXT],
        "format": FORMAT,
        "hash": reference.hash,
        "size": reference.size,
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _parse(path: Path, text: str) -> BasisReference:
    value: Any = strict_json.parse(text, f"{path}: its metadata")
    if not isinstance(value, dict) or type(value.get("format")) is not int:
        raise FormatError(f"{path}: its metadata has no format version")
    if value["format"] != FORMAT:
        raise RefusedError(f"{path}: basis format {value['format']} is not {FORMAT}", hint="install a newer adaptzip")
    match value:
        case {"description": str(made_of), "hash": str(content), "size": int(size), "format": _, **rest} if not rest:
            if type(size) is int and 1 <= size <= MOST_DIRECTIONS and len(made_of) <= _MOST_TEXT:
                return BasisReference("file", size, content, made_of)
    raise FormatError(f"{path}: its metadata is malformed")


def _modules(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, ModuleBasis]:
    sides: dict[str, dict[str, Tensor]] = {}
    for key in sorted(tensors):
        name, _, side = key.rpartition(".")
        if side not in ("U", "V", _MEAN) or not name:
            raise FormatError(f"{path}: tensor {key} is no side of a module's basis, nor its mean")
        sides.setdefault(name, {})[side] = tensors[key]
    modules = {}
    for name, found in sides.items():
        if not found.keys() >= {"U", "V"}:
            raise FormatError(f"{path}: module {name} has one side of a basis, and lacks the other")
        _check(path, name, found["U"], found["V"])
        mean = found.get(_MEAN)
        if mean is not None:
            _check_mean(path, name, mean, found["U"].shape[1])
        modules[name] = ModuleBasis(found["U"].float(), found["V"].float(), mean)
    return modules


def _check_mean(path: Path, name: str, mean: Tensor, size: int) -> None:
    if mean.shape != (size, size) or mean.dtype != torch.float32 or not bool(mean.isfinite().all()):
        raise FormatError(
            f"{path}: module {name} has a mean {list(mean.shape)} {NAMES[mean.dtype]}, expected {[size, size]} F32, "
            "finite"
        )


def _check(path: Path, name: str, U: Tensor, V: Tensor) -> None:
    fits = U.ndim == V.ndim == 2 and U.shape[1] == V.shape[1] and 1 <= U.shape[1] <= max(len(U), len(V))
    fits = fits and len(U) > 0 and len(V) > 0
    if not fits or U.dtype != V.dtype or U.dtype not in _DTYPES.values():
        raise FormatError(
            f"{path}: module {name} has U {list(U.shape)} {NAMES[U.dtype]} and V {list(V.shape)} {NAMES[V.dtype]}, "
            "expected (out, k) and (in, k), both F32 or both F16"
        )
    # Directions are at most 1 long, so that anything larger, infinite or NaN was not written by this program.
    if not bool(U.abs().amax() <= 2) or not bool(V.abs().amax() <= 2):
        raise FormatError(f"{path}: module {name} holds numbers that no direction has")


def _content(tensors: Mapping[str, Tensor]) -> str:
    """Digest over every tensor's name, dtype, shape and bytes, in the order of the names."""

    def parts() -> Iterator[bytes | memoryview]:
        for key in sorted(tensors):
            tensor = tensors[key].contiguous()
            yield json.dumps([key, NAMES[tensor.dtype], list(tensor.shape)], ensure_ascii=False).encode() + b"\n"
            yield tensor.reshape(-1).view(torch.uint8).numpy().data

    return digest(parts())
