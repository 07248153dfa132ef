"""PEFT's VB-LoRA: one bank of vectors, and for every piece of A and B which of them mix to it."""

from __future__ import annotations

from pathlib import Path

from adaptzip.checkpoints._base import Checkpoint, Dialect, Native, WriteOptions
from adaptzip.checkpoints.peft_vblora.fitness import fitting_sizes
from adaptzip.checkpoints.peft_vblora.layout import BANK, LOGITS
from adaptzip.checkpoints.peft_vblora.reader import read
from adaptzip.checkpoints.peft_vblora.writer import CONFIG_NAME, WEIGHTS_NAME, write
from adaptzip.core.adapter import Adapter

__all__ = ["DIALECT"]


class _PeftVblora(Dialect):
    """The dialect `peft-vblora`."""

    name = "peft-vblora"
    takes = ("vblora",)

    def sniff(self, source: Checkpoint) -> float:
        if BANK in source.tensors:
            return 1.0
        named = (source.config or {}).get("peft_type") == "VBLORA"
        return 1.0 if named and any(LOGITS in key for key in source.tensors) else 0.0

    def read(self, source: Checkpoint) -> Adapter:
        return read(source)

    def write_native(self, native: Native, folder: Path, options: WriteOptions) -> None:
        write(native, folder, options)

    def loading_bytes(self, native: Native) -> int | None:
        sizes = fitting_sizes(native)
        return sum(sizes.logits_bytes(m.out, m.width) for m in native.modules.values() if m.tensors)

    def owns(self, file_name: str) -> bool:
        return file_name in (CONFIG_NAME, WEIGHTS_NAME, "adapter_model.bin")


DIALECT = _PeftVblora()
