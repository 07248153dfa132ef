"""A VB-LoRA folder in the method's own tensors, to be written again in its top-k form."""

from __future__ import annotations

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._native import Native, NativeModule
from adaptzip.checkpoints.peft_vblora.layout import BANK
from adaptzip.checkpoints.peft_vblora.reader import Mixtures, mixtures, read


def native_of(source: Checkpoint, method: str) -> Native:
    """The bank, and the k vectors of each mixture with their weights, the largest of which is last.

    All other logits of a folder that has them mean nothing: PEFT takes the softmax of the k largest. The last weight is
    what the others leave of 1, which rounding makes least of where it is the largest.

    Args:
        method: what the method is called whose tensors these are.

    Raises:
        CheckpointError: as `read`.
    """
    adapter = read(source)
    bank = source.tensors[BANK].float()
    found = mixtures(source)
    modules = {}
    for name, factors in adapter.modules.items():
        tensors = {"bank": bank} | _coded("A", found[name]["A"]) | _coded("B", found[name]["B"].transposed())
        out, width = factors.shape
        modules[name] = NativeModule(tensors, factors.A, factors.B, out, width, factors.layout)
    return Native(method, {}, modules, adapter)


def _coded(side: str, mixed: Mixtures) -> dict[str, Tensor]:
    """Indices (pieces of all ranks, k) and all weights but the last (.., k - 1)."""
    weights, order = torch.softmax(mixed.logits, dim=-1).sort(dim=-1, stable=True)
    indices = mixed.indices.gather(-1, order)
    return {f"{side}.indices": indices.flatten(0, 1), f"{side}.weights": weights[..., :-1].flatten(0, 1)}
