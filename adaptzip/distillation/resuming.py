"""Training that was stopped goes on later: its state on disk, and the mark of the run that it belongs to."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch

from adaptzip._version import __version__
from adaptzip.distillation.problem import State
from adaptzip.distillation.schedules import Schedule
from adaptzip.errors import CheckpointError, UsageError
from adaptzip.files.atomic import atomic_file

VERSION = 3
_DAMAGE = (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)
"""What torch raises for a file that is none of its own."""
_END = 2**20
"""Bytes at both ends of a file that tell large ones apart; their size does as well."""


def progress_path(output: Path) -> Path:
    """Where the progress of a run is kept: beside its output."""
    return output.with_name(f"{output.name}.progress")


def mark_of(schedule: Schedule, files: Mapping[str, Path | None], settings: Mapping[str, Any]) -> str:
    """What tells a run from others: a hash of everything that decides its result.

    Args:
        schedule: its time limit does not count, since more time may be given later.
        files: that the run reads, by what they are for; None where there is none.
        settings: everything else, as JSON values.
    """
    decides = {
        "made_by": __version__,
        "schedule": {**asdict(schedule), "seconds": None},
        "files": {name: None if path is None else list(_looks(path)) for name, path in files.items()},
        "settings": settings,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()


def save_state(path: Path, state: State, mark: str) -> None:
    """Write the state of a run, all or nothing.

    Raises:
        OutputError: if it cannot be written.
    """
    held = {field.name: getattr(state, field.name) for field in fields(state)}
    for name in ("parameters", "best"):
        held[name] = {place: tensor.detach() for place, tensor in held[name].items()}
    with atomic_file(path, force=True) as handle:
        torch.save({"version": VERSION, "mark": mark, "state": held}, handle)


def load_state(path: Path, mark: str) -> State:
    """The state that `save_state` wrote, on the CPU.

    Raises:
        CheckpointError: if the file is damaged or no such state.
        UsageError: if it belongs to another run.
    """
    damaged = CheckpointError(f"{path}: is no progress of a run", hint="remove it, and start without `resume=True`")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        version, found, values = held["version"], held["mark"], held["state"]
    except _DAMAGE as error:
        raise damaged from error
    if version != VERSION or found != mark:
        raise UsageError(
            f"{path}: is the progress of another run: teacher, base, data or options differ",
            hint="repeat the command line of that run with `resume=True`, or remove the file to start anew",
        )
    try:
        return State(**values)
    except TypeError as error:
        raise damaged from error


def on_device(state: State, device: torch.device) -> State:
    """The state with its tensors on a device; those of Adam follow when it is loaded."""
    return replace(
        state,
        parameters={place: tensor.to(device) for place, tensor in state.parameters.items()},
        best={place: tensor.to(device) for place, tensor in state.best.items()},
    )


def _looks(path: Path) -> Iterator[tuple[str, int, str]]:
    """Names, sizes and hashes of a file or of the files in a folder."""
    inside = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else []
    files = inside if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as handle:
            content = handle.read(_END)
            handle.seek(max(0, size - _END))
            content += handle.read(_END)
        yield file.name if path.is_dir() else "", size, hashlib.sha256(content).hexdigest()
