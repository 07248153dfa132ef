"""`adapter_start.json`, the note of a start beside a run, and the file of first A that may stand with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.bases.starts.found import FoundStart, KeptStart
from adaptzip.bases.starts.generators import Place, check_start
from adaptzip.core.calling import public
from adaptzip.errors import CheckpointError, FormatError, OutputError, RefusedError, naming
from adaptzip.files import strict_json
from adaptzip.files.atomic import atomic_file, check_output
from adaptzip.files.regular import read_regular
from adaptzip.files.tensors import build_header, pending, write_tensors
from adaptzip.files.weights import open_weights

NOTE, TENSORS = "adapter_start.json", "adapter_start.safetensors"
FORMAT = 1
_LARGEST = 1 << 26
_HINT = "give the folder in which adaptzip.record_start wrote adapter_start.json"


def write_start(start: FoundStart | KeptStart, folder: str | Path, force: bool = False) -> None:
    """Write the note into a folder, which is made if missing; the tensors before it.

    Raises:
        OutputError: if a file exists without `force`, or cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror or error}") from error
    check_output(folder / NOTE, force)
    if isinstance(start, KeptStart):
        waiting = {name: pending(A) for name, A in start.A.items()}
        with atomic_file(folder / TENSORS, force) as handle:
            write_tensors(handle, waiting, build_header(waiting, {}))
    with atomic_file(folder / NOTE, force) as handle:
        handle.write(json.dumps(_note(start), indent=1, ensure_ascii=False).encode() + b"\n")


@public
def read_start(path: str | Path) -> FoundStart | KeptStart:
    """Read what `record_start` wrote, as if whoever wrote it meant harm.

    Args:
        path: the folder, or the `adapter_start.json` in it.

    Returns:
        The start; correlations are 1, as they were before training.

    Raises:
        FormatError: if it is missing or malformed, or would take too much work to make again.
        RefusedError: if a newer version wrote it.

    Example:
        >>> start = adaptzip.KeptStart({"layers.0.q_proj": torch.ones(2, 8)})
        >>> from adaptzip.bases.starts.files import write_start
        >>> write_start(start, "run-on-a-gpu")
        >>> adaptzip.read_start("run-on-a-gpu").A["layers.0.q_proj"].shape
        torch.Size([2, 8])
    """
    path = Path(path)
    note = path / NOTE if path.is_dir() else path
    try:
        if note.stat().st_size > _LARGEST:
            raise FormatError(f"{note}: is too large for a note of a start")
        text = read_regular(note)
    except OSError as error:
        raise FormatError(f"{note}: cannot be read: {error.strerror or error}", hint=_HINT) from error
    value: Any = strict_json.parse(text, str(note))
    if not isinstance(value, dict) or type(value.get("format")) is not int:
        raise FormatError(f"{note}: has no format version", hint=_HINT)
    if value["format"] != FORMAT:
        raise RefusedError(f"{note}: format {value['format']} is not {FORMAT}", hint="install a newer adaptzip")
    match value:
        case {"format": _, "tensors": str(name), **rest} if not rest and name == TENSORS:
            return KeptStart(_kept(note.with_name(TENSORS)))
        case {"format": _, "generator": str(generator), "seed": int(seed), "modules": dict(modules), **rest} if (
            not rest and type(seed) is int
        ):
            places = {name: _place(note, name, value) for name, value in modules.items()}
            with naming(note, FormatError):
                check_start(generator, seed, places)
            return FoundStart(generator, seed, places, dict.fromkeys(places, 1.0))
    raise FormatError(f"{note}: is malformed", hint=_HINT)


def start_note(path: str | Path) -> Path | None:
    """The note of a start at a path or in the folder at it; None where there is none."""
    path = Path(path)
    note = path if path.name == NOTE else path / NOTE
    return note if note.is_file() else None


def _note(start: FoundStart | KeptStart) -> dict[str, object]:
    if isinstance(start, KeptStart):
        return {"format": FORMAT, "tensors": TENSORS}
    modules = {name: [place.offset, place.rank, place.width] for name, place in sorted(start.places.items())}
    return {"format": FORMAT, "generator": start.generator, "seed": start.seed, "modules": modules}


def _place(note: Path, name: str, value: Any) -> Place:
    if not isinstance(value, list) or len(value) != 3 or any(type(number) is not int for number in value):
        raise FormatError(f"{note}: module {name} has {str(value)[:40]}, expected its offset, rank and width")
    return Place(*value)


def _kept(path: Path) -> dict[str, Tensor]:
    try:
        tensors = open_weights(path).tensors
    except (CheckpointError, OSError) as error:
        raise FormatError(f"{path}: cannot be read: {error}", hint=_HINT) from error
    for name, A in tensors.items():
        if A.ndim != 2 or not A.numel() or A.dtype not in (torch.float16, torch.float32):
            raise FormatError(f"{path}: module {name} has {list(A.shape)} {A.dtype}, expected (rank, in) of floats")
        if not bool(A.isfinite().all()):
            raise FormatError(f"{path}: module {name} holds NaN or infinity")
    return dict(tensors)
