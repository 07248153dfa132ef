"""The `.bank` file: one bank of vectors that many compressed adapters refer to by its hash (formats/bank-1.md)."""

from __future__ import annotations

import json
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adaptzip.adz.coding import entropy
from adaptzip.adz.coding.decoding import decoded
from adaptzip.adz.coding.modules import code_as_they_are
from adaptzip.core.bank import Bank, BankShape
from adaptzip.core.bank_builder import FittedBank
from adaptzip.core.basis import Basis, BasisReference
from adaptzip.core.compressed import TensorSpec
from adaptzip.core.finite import all_finite
from adaptzip.core.words import count
from adaptzip.core.workers import on_one_core
from adaptzip.errors import CheckpointError, FormatError, RefusedError, UsageError, naming
from adaptzip.files import strict_json
from adaptzip.files.atomic import atomic_file
from adaptzip.files.digest import digest
from adaptzip.files.tensors import build_header, pending, write_tensors
from adaptzip.files.weights import open_weights

FORMAT = 1
KEY = "adaptzip-bank"
"""The one key in the safetensors metadata."""
MOST_NUMBERS = 2**28
"""Numbers of all vectors of a bank."""
_TENSOR = "bank"
_MOST_TEXT = 1000
_MOST = {"rank": 2**20, "length": 2**20, "vectors": 2**20, "top_k": 8, "levels": 2**16}
_MADE = "give a file that `adaptzip bank build` wrote"


@on_one_core()
def coded_bank(fitted: FittedBank) -> Basis:
    """A fitted bank exactly as a reader of its file will have it.

    Raises:
        UsageError: if it has more numbers than a file may.
    """
    shape = fitted.shape
    if shape.vectors * shape.length > MOST_NUMBERS:
        raise UsageError(f"a bank of {shape.vectors} x {shape.length} numbers was asked for, expected {MOST_NUMBERS}")
    block = code_as_they_are([(1, 1, [_spec(shape)], {_TENSOR: fitted.vectors})], fitted.step)[0]
    bank = Bank(block.tensors[_TENSOR], shape, fitted.step, block.chunk)
    return _basis(bank, f"updates of {count(fitted.adapters, 'adapter')}")


def write_bank(basis: Basis, path: str | Path, force: bool = False) -> BasisReference:
    """Write a bank as a file of its own, all or nothing; equal input gives equal bytes.

    Returns:
        What an adapter that is compressed with the file says of it.

    Raises:
        UsageError: if the basis is no bank.
        OutputError: if `path` exists without `force` or cannot be written.
    """
    if basis.bank is None:
        raise UsageError("the basis is no bank, so there is nothing to write", hint="make one with `build_bank`")
    tensors = {_TENSOR: pending(torch.from_numpy(np.frombuffer(basis.bank.chunk, np.uint8).copy()))}
    header = build_header(tensors, {KEY: _metadata(basis.bank, basis.reference)})
    with atomic_file(path, force) as handle:
        write_tensors(handle, tensors, header)
    return basis.reference


def is_bank(path: str | Path) -> bool:
    """Whether a file calls itself a bank, by its name or its metadata."""
    path = Path(path)
    if path.is_dir() or path.suffix == ".bank":
        return not path.is_dir()
    try:
        return KEY in open_weights(path).metadata
    except (CheckpointError, OSError):
        return False


def read_bank(path: str | Path) -> Basis:
    """Read a `.bank` file, as if whoever made it meant harm.

    Raises:
        FormatError: if it is missing, no such file, or damaged.
        RefusedError: if a newer version made it.
    """
    path = Path(path)
    try:
        opened = open_weights(path)
    except CheckpointError as error:
        raise FormatError(str(error), hint=_MADE) from error
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror or error}") from error
    if opened.metadata.keys() != {KEY} or not isinstance(opened.metadata[KEY], str):
        raise FormatError(f"{path}: is no bank", hint=_MADE)
    shape, step, reference = _parse(path, opened.metadata[KEY])
    coded = opened.tensors.get(_TENSOR)
    in_a_row = coded is not None and coded.dtype == torch.uint8 and coded.ndim == 1 and coded.numel() > 0
    if len(opened.tensors) != 1 or coded is None or not in_a_row:
        raise FormatError(f"{path}: expected one tensor, {_TENSOR}, of bytes in a row")
    chunk = coded.numpy().tobytes()
    if _content(shape, step, chunk) != reference.hash:
        raise FormatError(f"{path}: is damaged: its hash does not match", hint="fetch it again")
    with naming(path, FormatError):
        vectors = _vectors(chunk, shape, step)
    return Basis({}, reference, Bank(vectors, shape, step, chunk))


def _basis(bank: Bank, description: str) -> Basis:
    content = _content(bank.shape, bank.step, bank.chunk)
    return Basis({}, BasisReference("bank", bank.shape.vectors, content, description), bank)


def _spec(shape: BankShape) -> TensorSpec:
    return TensorSpec(_TENSOR, shape.vectors, shape.length)


def _metadata(bank: Bank, reference: BasisReference) -> str:
    value = {
        **asdict(bank.shape),
        "description": reference.description[:_MOST_TEXT],
        "format": FORMAT,
        "hash": reference.hash,
        "step": bank.step,
    }
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _parse(path: Path, text: str) -> tuple[BankShape, float, BasisReference]:
    value: Any = strict_json.parse(text, f"{path}: its metadata")
    if not isinstance(value, dict) or type(value.get("format")) is not int:
        raise FormatError(f"{path}: its metadata has no format version")
    if value["format"] != FORMAT:
        raise RefusedError(f"{path}: bank format {value['format']} is not {FORMAT}", hint="install a newer adaptzip")
    match value:
        case {"description": str(made_of), "hash": str(content), "step": float(step), "format": _, **rest}:
            if rest.keys() == _MOST.keys() and len(made_of) <= _MOST_TEXT and _sound(rest, step):
                return BankShape(**rest), step, BasisReference("bank", rest["vectors"], content, made_of)
    raise FormatError(f"{path}: its metadata is malformed")


def _sound(sizes: dict[str, Any], step: float) -> bool:
    """Whether sizes and step are such that adapters can be coded with them."""
    if not all(type(sizes[name]) is int and 1 <= sizes[name] <= most for name, most in _MOST.items()):
        return False
    levels = sizes["levels"]
    fits = sizes["top_k"] < sizes["vectors"] and sizes["vectors"] * sizes["length"] <= MOST_NUMBERS
    with np.errstate(over="ignore"):
        exact = isfinite(step) and step > 0 and float(np.float32(step)) == step
    return fits and exact and levels >= 2 and levels & (levels - 1) == 0


def _vectors(chunk: bytes, shape: BankShape, step: float) -> Tensor:
    specs = [_spec(shape)]
    vectors = decoded(entropy.decode(chunk, 1, lambda _: specs, "(bank)"), specs, step, "(bank)")[_TENSOR]
    if not all_finite(vectors) or bool(vectors[-1].any()):
        raise FormatError("the vectors are not all finite, or the last is not zero")
    return vectors


def _content(shape: BankShape, step: float, chunk: bytes) -> str:
    """Digest over the settings and the coded vectors."""
    settings = [shape.rank, shape.length, shape.vectors, shape.top_k, shape.levels, step]
    return digest([json.dumps(settings).encode() + b"\n", chunk])
