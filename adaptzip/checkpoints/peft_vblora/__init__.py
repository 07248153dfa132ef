"""PEFT's VB-LoRA: one bank of vectors, and for every piece of A and B which of them mix to it."""

from __future__ import annotations

from pathlib import Path

from adaptzip.checkpoints._base import Checkpoint, Files, NativeWriter, Reader, Signature, WriteOptions
from adaptzip.checkpoints._config import CONFIG_NAME, WEIGHT_NAMES
from adaptzip.checkpoints._native import Native
from adaptzip.checkpoints.peft.targeting import left_out
from adaptzip.checkpoints.peft_vblora.fitness import fitting_sizes
from adaptzip.checkpoints.peft_vblora.layout import BANK, LOGITS, TITLE
from adaptzip.checkpoints.peft_vblora.native import native_of
from adaptzip.checkpoints.peft_vblora.reader import read
from adaptzip.checkpoints.peft_vblora.writer import write
from adaptzip.core.adapter import Adapter

__all__ = ["DIALECT"]


class _PeftVblora(Reader, NativeWriter):
    """The dialect `peft-vblora`."""

    name = "peft-vblora"
    title = TITLE
    judged_by = "PEFT"
    lacks = "convolutions and embeddings; widths that no vector length divides"
    files = Files(WEIGHT_NAMES, CONFIG_NAME, (CONFIG_NAME, *WEIGHT_NAMES))
    signature = (Signature(r"^base_model\.(model\..*\.vblora_logits_[AB]|vblora_vector_bank$)", "a VB-LoRA of PEFT"),)
    takes = ("vblora",)

    def sniff(self, source: Checkpoint) -> float:
        if BANK in source.tensors:
            return 1.0
        named = (source.config or {}).get("peft_type") == "VBLORA"
        return 1.0 if named and any(LOGITS in key for key in source.tensors) else 0.0

    def read(self, source: Checkpoint) -> Adapter:
        return read(source)

    def native(self, source: Checkpoint) -> Native | None:
        return native_of(source, self.takes[0]) if self.sniff(source) else None

    def write_native(self, native: Native, folder: Path, options: WriteOptions) -> None:
        write(native, folder, options)

    def loading_bytes(self, native: Native) -> int | None:
        sizes = fitting_sizes(native)
        return sum(sizes.logits_bytes(m.out, m.width) for m in native.modules.values() if m.tensors)

    def overlooked(self, adapter: Adapter) -> tuple[str, ...]:
        return left_out(adapter)


DIALECT = _PeftVblora()
