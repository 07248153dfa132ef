"""llama.cpp's LoRA: one GGUF file of the type `adapter`.

It holds `<tensor of the base>.lora_a` (rank, in) and `.lora_b` (out, rank), the tensors by llama.cpp's names. The
update is B A, times alpha / rank where the alpha of the whole file is not 0. An embedding's lora_a is (vocabulary,
rank). The rows of q and k lie as llama.cpp's rotary embedding takes them, which for llama is not as transformers has
them.
"""

from __future__ import annotations

from pathlib import Path

from adaptzip.checkpoints._base import Checkpoint, Files, Reader, Signature, WriteOptions, Writer
from adaptzip.checkpoints._gguf.header import MAGIC
from adaptzip.checkpoints._losses import Loss
from adaptzip.checkpoints.gguf.container import open_gguf
from adaptzip.checkpoints.gguf.reader import ARCHITECTURE, read
from adaptzip.checkpoints.gguf.writer import FILE, Q8_0, lost, write
from adaptzip.core.adapter import Adapter
from adaptzip.files.weights import Weights

__all__ = ["DIALECT"]


class _Gguf(Reader, Writer):
    """The dialect `gguf`. Its library is imported when a file is read or written."""

    name = "gguf"
    title = "GGUF"
    judged_by = "llama.cpp"
    lacks = "heads, biases, DoRA, experts, fused layers"
    files = Files((FILE,), None, (FILE,), MAGIC)
    signature = (Signature(r"\.weight\.lora_[ab]$", "a GGUF LoRA"),)
    codings = (Q8_0,)

    def sniff(self, source: Checkpoint) -> float:
        return 1.0 if ARCHITECTURE in source.metadata else 0.0

    def open(self, path: Path) -> Weights:
        return open_gguf(path)

    def read(self, source: Checkpoint) -> Adapter:
        return read(source)

    def lost(self, adapter: Adapter, options: WriteOptions) -> tuple[Loss, ...]:
        return lost(adapter, options)

    def write(self, adapter: Adapter, folder: Path, options: WriteOptions) -> None:
        write(adapter, folder, options)


DIALECT = _Gguf()
