"""Opening PyTorch's weight files without running any code in them."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.errors import CheckpointError
from adaptzip.files.dtypes import DTYPES
from adaptzip.files.names import check_keys
from adaptzip.files.pickles import MAGIC, Opcodes, contents, scan
from adaptzip.files.regular import open_regular

_AGAIN = "download or save it again"
_ZIP = b"PK"
# Under these keys training programs keep a model's tensors, beside counters and states.
_NESTED = ("state_dict", "model_state_dict", "model", "module", "adapter", "lora", "lora_state_dict")
_SCANNED = 2**26
"""Bytes of a pickle that are looked at to say what is wrong with it."""
_QUANTISED = re.compile(r"float[468]_\w+|u?int[1-7]|bits\w+")
"""PyTorch's names of dtypes that only quantised weights have."""
ROOM, ROOM_A_BYTE = 2**25, 8
"""Bytes that all tensors may have in memory: so many, and more for each byte of the file. Tensors may share what is
stored, repeat it, or be deflated."""


class QuantisedTensorError(CheckpointError):
    """A tensor that holds codes instead of numbers.

    Attributes:
        what: its key and kind.
    """

    def __init__(self, path: Path, key: str, kind: str) -> None:
        super().__init__(f"{path}: tensor {key} is quantised ({kind})", hint="save it as .dequantize() gives it")
        self.what = f"{key} is {kind}"


def load_tensors(path: Path, *, mapped: bool = False, nested: bool = False) -> dict[str, Tensor]:
    """The tensors of a PyTorch file by key, without running any code in it.

    Args:
        path: the file.
        mapped: map the file into memory where its form allows it.
        nested: look for the table under the keys of training programs, such as "state_dict", as well, and take a list
            of tensors by their numbers.

    Raises:
        CheckpointError: if it is truncated or damaged, or holds anything but tensors.
        OSError: if the system cannot read it.
    """
    with open_regular(path) as handle, warnings.catch_warnings(action="ignore"):
        zipped = handle.read(2) == _ZIP
        handle.seek(0)
        if zipped:
            _check_room(path, _inflated(path))
        try:
            # An open file is passed on where it can be, as `torch.load` guesses other formats from the name.
            file = path if mapped and zipped else handle
            loaded: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped and zipped)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # Damaged files make PyTorch raise errors of nearly every class.
            raise _failure(path, zipped) from error
    tensors = _table(path, loaded, nested)
    check_keys(path, tensors)
    plain = [tensor for tensor in tensors.values() if tensor.layout == torch.strided and not tensor.is_meta]
    _check_room(path, sum(tensor.numel() * tensor.element_size() for tensor in plain))
    return {key: _dense(path, key, tensor) for key, tensor in tensors.items()}


def _inflated(path: Path) -> int:
    """Bytes of what is in a zip archive; 0 where it cannot be read, which loading it then tells."""
    try:
        with open_regular(path) as handle, zipfile.ZipFile(handle) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError):
        return 0


def _check_room(path: Path, held: int) -> None:
    """Raises: CheckpointError: if tensors take far more memory than their file has bytes."""
    size = path.stat().st_size
    if held > ROOM + ROOM_A_BYTE * size:
        raise CheckpointError(
            f"{path}: its {size:,} bytes become {held:,} in memory", hint="save its tensors as safetensors, each once"
        )


def _failure(path: Path, zipped: bool) -> CheckpointError:
    """Why PyTorch cannot load a file, from the file itself."""
    what, hint = _zip_failure(path) if zipped else _stream_failure(path)
    return CheckpointError(f"{path}: {what}", hint=hint)


def _zip_failure(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
            if not pickles:
                inside = ", ".join(names[:3]) or "nothing"
                return (
                    f"is a zip archive of other files ({inside}), no PyTorch file",
                    "unpack it and give what is in it",
                )
            if any(n.endswith("/constants.pkl") for n in names):
                return "is a TorchScript program, expected a table of tensors", "save its state_dict() as safetensors"
            with archive.open(pickles[0]) as handle:
                found = scan(io.BytesIO(handle.read(_SCANNED)))
    except (zipfile.BadZipFile, EOFError):
        return "is truncated: its zip directory is missing", _AGAIN
    except (ValueError, NotImplementedError, RuntimeError):
        return "is damaged: its zip archive cannot be read", _AGAIN
    return contents(found.globals) or ("is damaged: PyTorch cannot read what is in it", _AGAIN)


def _stream_failure(path: Path) -> tuple[str, str]:
    with open_regular(path) as handle:
        first = scan(handle)
        # Old files are a magic number, a version, the system's byte order, the table, the keys of the storages.
        rest = [scan(handle) for _ in range(4)] if MAGIC in first.numbers else []
    found = [first, *rest]
    what = contents(tuple(name for pickle in found for name in pickle.globals))
    if what is not None:
        return what
    return _without_code(found, old=bool(rest))


def _without_code(found: list[Opcodes], old: bool) -> tuple[str, str]:
    if any(pickle.damaged for pickle in found) and not old:
        return "is damaged: it is no pickle from begin to end", _AGAIN
    if old or not found[0].whole:
        return "is truncated: it ends before its tensors do", _AGAIN
    return "is a pickle that holds no tensors", "expected a table of tensors, as torch.save(state_dict, file) writes it"


def _table(path: Path, loaded: Any, nested: bool) -> dict[str, Tensor]:
    """The table of tensors in what was loaded: itself, or the one that stands under a training program's key."""
    if nested and isinstance(loaded, list) and loaded and all(isinstance(value, Tensor) for value in loaded):
        return {str(number): tensor for number, tensor in enumerate(loaded)}
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{path}: expected a dictionary of tensors, found {type(loaded).__name__}",
            hint="save a state_dict(), which is a table of tensors by name",
        )
    if not any(isinstance(value, Tensor) for value in loaded.values()):
        tables = [loaded[key] for key in _NESTED if isinstance(loaded.get(key), Mapping)]
        tables = [table for table in tables if table] or tables
        if nested and len(tables) == 1:
            return _table(path, tables[0], nested=False)
        if "param_groups" in loaded:
            raise CheckpointError(f"{path}: holds an optimizer's state, no weights", hint="give the weight file")
    for key, value in loaded.items():
        if not isinstance(key, str):
            raise CheckpointError(
                f"{path}: has the key {key!r} of type {type(key).__name__}, expected the tensors' names",
                hint="save a state_dict(), which is a table of tensors by name",
            )
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: expected a tensor under {key!r}, found {type(value).__name__}",
                hint="save the tensors alone, without counters and states",
            )
    return dict(loaded)


def _dense(path: Path, key: str, tensor: Tensor) -> Tensor:
    """A plain tensor in memory order.

    Raises:
        CheckpointError: for a tensor of another kind.
    """
    kind = str(tensor.dtype).removeprefix("torch.")
    what, hint = "", "save it as a plain tensor"
    if tensor.is_meta:
        what, hint = "has no numbers: it was saved from the meta device", "save it again with its weights loaded"
    elif tensor.is_quantized or (tensor.dtype not in DTYPES.values() and _QUANTISED.fullmatch(kind)):
        raise QuantisedTensorError(path, key, kind)
    elif tensor.layout != torch.strided or tensor.is_nested:
        what, hint = "is sparse, expected a dense tensor", "save it as .to_dense() gives it"
    elif tensor.dtype not in DTYPES.values():
        what = f"is {kind}, expected float32, float16, bfloat16 or float64"
    if what:
        raise CheckpointError(f"{path}: tensor {key} {what}", hint=hint)
    return tensor.detach().resolve_neg().contiguous()
