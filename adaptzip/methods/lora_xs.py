"""`lora-xs`: a small core between the leading singular directions of the base weights (LoRA-XS, arXiv 2405.17604).

The basis costs nothing to send: whoever has the base model computes it again. How little of a finished LoRA lies in
these directions is measured before anything is written; a core that is trained there can still do the job.
"""

from __future__ import annotations

from adaptzip.methods._lora_core import LoraCore


class LoraXs(LoraCore):
    """The method; see the module's description."""

    name = "lora-xs"
    summary = "r x r core between the base weights' singular directions, computed again by whoever has the base"
    paper = "LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters, arXiv 2405.17604"
    default_basis = "base"


METHOD = LoraXs()
