"""The AdaLoRA of the paper's authors: a state_dict() of the whole model, and their loralib's lora_state_dict().

Zhang et al. 2023, arXiv:2303.10512. The file holds `<module>.lora_A` (rank, in), `.lora_E` (rank, 1), `.lora_B` (out,
rank) and `.ranknum` (1,), and the update is lora_alpha / (ranknum + 1e-5) * B diag(E) A. Ranks that training cut are
zeros in E; ranknum stays the rank that it began with, so that the rows of A tell it where lora_state_dict() leaves it
out. lora_alpha is in config.json; where it is not positive, ranknum stands for it.
"""

from __future__ import annotations

from adaptzip.checkpoints._adaptive import AdaptiveRanks, kept_ranks, rank_number, scale_of
from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._parts import Parts, misfit, part_of
from adaptzip.checkpoints._state_dict import layout_fits, layout_of
from adaptzip.core.adapter import LoraFactors


class _Adalora(AdaptiveRanks):
    """The dialect `adalora`. A stays as it is but for cut ranks; E is folded into B, rounded once to float32."""

    name = "adalora"
    title = "the authors' AdaLoRA"
    judged_by = "the authors' saved updates"
    signature = (Signature(r"^(?!base_model\.model\.).*\.lora_E$", "an AdaLoRA of its authors"),)
    parts = "lora_[AEB]|ranknum"

    def module(
        self, source: Checkpoint, name: str, keys: Parts, shape: tuple[int, ...] | None, alpha: float
    ) -> LoraFactors:
        A, E, B = (part_of(source, name, keys, f"lora_{part}") for part in "AEB")
        fits = A.ndim == B.ndim == 2 and tuple(E.shape) == (A.shape[0], 1) and A.shape[0] == B.shape[1]
        if not fits or 0 in (*A.shape, *B.shape) or not layout_fits(shape, B.shape[0], A.shape[1]):
            weight = "" if shape is None else f" of a weight {list(shape)}"
            expected = f"lora_A (rank, in), lora_E (rank, 1) and lora_B (out, rank){weight}"
            raise misfit(source, name, {"lora_A": A, "lora_E": E, "lora_B": B}, expected)
        rank = rank_number(source, name, keys) if "ranknum" in keys else A.shape[0]
        scaling, layout = scale_of(alpha, rank, rank), layout_of(shape, B.shape[0], A.shape[1])
        return LoraFactors(*kept_ranks(A, E, B), scaling, layout)


DIALECT = _Adalora()
