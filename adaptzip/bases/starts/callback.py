"""A callback of transformers' Trainer that records the start of what is trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from adaptzip.bases.starts.files import NOTE, TENSORS
from adaptzip.bases.starts.recording import record_start
from adaptzip.core.calling import public
from adaptzip.errors import AdaptzipError, warn
from adaptzip.models.guests import import_transformers


@public
def start_callback(*, adapter: str | None = None) -> Any:
    """A `TrainerCallback` that calls `record_start` as training begins, with the Trainer's `output_dir`.

    Make it before the Trainer, which seeds torch anew. Each checkpoint gets a copy of what was written. A run that is
    resumed keeps the note of the one before it. What can't be recorded is warned of, and training goes on.

    Args:
        adapter: as for `record_start`.

    Raises:
        RefusedError: if transformers is not installed.

    Example:
        >>> callback = adaptzip.start_callback()
        >>> [name for name in ("on_train_begin", "on_save") if hasattr(callback, name)]
        ['on_train_begin', 'on_save']
    """
    made = type("StartCallback", (_Recorder, import_transformers().TrainerCallback), {})
    return made(adapter, torch.initial_seed())


class _Recorder:
    """What the callback does at which event."""

    def __init__(self, adapter: str | None, seed: int) -> None:
        self._adapter, self._seed = adapter, seed

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Record the start, unless a checkpoint was loaded."""
        if not state.is_world_process_zero or model is None:
            return
        if state.global_step and (Path(args.output_dir) / NOTE).is_file():
            return
        try:
            record_start(model, args.output_dir, adapter=self._adapter, seeds=(self._seed,), force=True)
        except AdaptzipError as error:
            warn(f"the start of the adapter is not recorded: {error}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Copy what was recorded into the checkpoint."""
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for name in (TENSORS, NOTE):
            written = Path(args.output_dir) / name
            if state.is_world_process_zero and written.is_file() and checkpoint.is_dir():
                shutil.copyfile(written, checkpoint / name)
