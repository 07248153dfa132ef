"""`lora-sb`: a small core between directions of an update estimate (LoRA-SB, arXiv 2411.19557).

The estimate is several adapters' updates, or the first step of full fine-tuning; its basis is a file of its own that
many adapters share. Without one the adapter's own directions are stored with it, which `svd` does in fewer bytes.
"""

from __future__ import annotations

from adaptzip.methods._lora_core import LoraCore


class LoraSb(LoraCore):
    """The method; see the module's description."""

    name = "lora-sb"
    summary = "r x r core between directions of an update estimate, a basis file that many adapters share"
    paper = "Initialization using Update Approximation is a Silver Bullet for Extremely Efficient Low-Rank Fine-Tuning"
    default_basis = "update"


METHOD = LoraSb()
