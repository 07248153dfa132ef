"""PEFT's LoRA: adapter_config.json beside adapter_model.safetensors or adapter_model.bin."""

from __future__ import annotations

from pathlib import Path

from adaptzip.checkpoints._base import Checkpoint, Dialect, WriteOptions
from adaptzip.checkpoints._foreign import is_foreign
from adaptzip.checkpoints.peft.keys import PREFIX, split
from adaptzip.checkpoints.peft.reader import read
from adaptzip.checkpoints.peft.writer import CONFIG_NAME, WEIGHTS_NAME, write
from adaptzip.core.adapter import Adapter

__all__ = ["DIALECT"]


class _Peft(Dialect):
    """The dialect `peft`."""

    name = "peft"

    def sniff(self, source: Checkpoint) -> float:
        if source.config is not None and "peft_type" in source.config and not is_foreign(source):
            # Not 1: other dialects write PEFT's configuration too, and know their own keys.
            return 0.95
        if any(split(key) is not None for key in source.tensors):
            return 0.9
        return 0.2 if any(key.startswith(PREFIX) for key in source.tensors) else 0.0

    def read(self, source: Checkpoint) -> Adapter:
        return read(source)

    def write(self, adapter: Adapter, folder: Path, options: WriteOptions) -> None:
        write(adapter, folder, options)

    def owns(self, file_name: str) -> bool:
        return file_name in (CONFIG_NAME, WEIGHTS_NAME, "adapter_model.bin")


DIALECT = _Peft()
