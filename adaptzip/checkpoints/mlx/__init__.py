"""MLX's LoRA: adapters.safetensors and the adapter_config.json that mlx-lm writes beside it.

The file holds `<module>.lora_a` (in, rank) and `<module>.lora_b` (rank, out), both the transpose of PEFT's; the update
is scale times (lora_a lora_b)^T, with `scale` of the configuration, which no rank divides. DoRA adds `<module>.m`
(out,). An embedding's lora_a is (vocabulary, rank), and its lora_b (rank, dimension).
"""

from __future__ import annotations

from dataclasses import replace

from adaptzip.checkpoints._base import Checkpoint, Files, Reader, Signature, WriteOptions
from adaptzip.checkpoints._config import CONFIG_NAME
from adaptzip.checkpoints._losses import Loss
from adaptzip.checkpoints._safetensors import Contents, SafetensorsWriter
from adaptzip.checkpoints.mlx.names import in_memory
from adaptzip.checkpoints.mlx.reader import read
from adaptzip.checkpoints.mlx.writer import WEIGHTS, contents, lost
from adaptzip.core.adapter import Adapter

__all__ = ["DIALECT"]


class _Mlx(Reader, SafetensorsWriter):
    """The dialect `mlx`."""

    name = "mlx"
    title = "MLX"
    judged_by = "mlx-lm"
    lacks = "heads, biases, convolutions, experts"
    files = Files((WEIGHTS,), CONFIG_NAME, (CONFIG_NAME, WEIGHTS))
    signature = (Signature(r"(?<!\.weight)\.lora_[ab]$", "an MLX LoRA"),)

    def read(self, source: Checkpoint) -> Adapter:
        return read(source)

    def spelled(self, adapter: Adapter) -> Adapter:
        return replace(adapter, modules=in_memory(adapter.modules))

    def lost(self, adapter: Adapter, options: WriteOptions) -> tuple[Loss, ...]:
        return lost(adapter)

    def contents(self, adapter: Adapter, options: WriteOptions) -> Contents:
        return contents(adapter, options)


DIALECT = _Mlx()
