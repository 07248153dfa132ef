"""PEFT's UniLoRA: every number of A and B is one of a single vector's, at places that a seed spreads over all modules.

arXiv:2506.00799. The file holds `base_model.unilora_theta_d` (d,), and of each module `<module>.unilora_indices_A`
(rank, in), `.unilora_indices_B` (out, rank), and `.unilora_scales_A` and `.unilora_scales_B` of the same shapes; A is
theta_d[indices_A] scales_A, and B likewise. By default PEFT leaves out places and scales, and draws them anew for all
modules in the base model's own order, which no file of safetensors has kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adaptzip.checkpoints._base import Checkpoint, Files, NativeWriter, Signature, WriteOptions
from adaptzip.checkpoints._config import CONFIG_NAME, WEIGHT_NAMES
from adaptzip.checkpoints._native import Native
from adaptzip.checkpoints._peft_method import Modules, PeftMethod
from adaptzip.checkpoints.peft.targeting import left_out
from adaptzip.checkpoints.peft_unilora.layout import TITLE, VECTOR
from adaptzip.checkpoints.peft_unilora.reader import factors_of
from adaptzip.checkpoints.peft_unilora.writer import write
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import RefusedError

__all__ = ["DIALECT"]


class _PeftUnilora(PeftMethod, NativeWriter):
    """The dialect `peft-unilora`."""

    name = "peft-unilora"
    title = TITLE
    judged_by = "PEFT"
    lacks = "files without their places; convolutions and embeddings"
    files = Files(WEIGHT_NAMES, CONFIG_NAME, (CONFIG_NAME, *WEIGHT_NAMES))
    signature = (Signature(r"^base_model\.(model\..*\.unilora_(indices|scales)_[AB]|unilora_theta_d)$", TITLE),)
    kind = "UNILORA"
    own = ".unilora_"
    parts = "(?:indices|scales)_[AB]"
    shared = r"base_model\.unilora_theta_d"
    takes = ("unilora",)

    def read(self, source: Checkpoint) -> Adapter:
        """Refused where the places are not in the file: only the base model, in memory, has the order they follow."""
        if not any(self.own in key for key in source.tensors if key != VECTOR):
            raise RefusedError(
                f"{source.weights}: has no unilora_indices, which PEFT draws anew in the order of the base model's "
                "modules",
                hint="save it again with save_indices=True, or turn it into a LoRA: peft.save_as_lora",
            )
        return super().read(source)

    def factors(self, source: Checkpoint, raw: Mapping[str, Any], modules: Modules) -> dict[str, LoraFactors]:
        return factors_of(source, raw, modules)

    def write_native(self, native: Native, folder: Path, options: WriteOptions) -> None:
        write(native, folder, options)

    def overlooked(self, adapter: Adapter) -> tuple[str, ...]:
        return left_out(adapter)


DIALECT = _PeftUnilora()
