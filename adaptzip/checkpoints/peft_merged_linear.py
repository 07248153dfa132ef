"""PEFT's MergedLinear before version 0.3: adapter_config.json with enable_lora, beside adapter_model.bin.

It is loralib's, see `_merged_linear`: of the n equal parts of a fused weight's rows those that enable_lora switches on
have factors. The file holds `base_model.model.<module>.lora_A.weight` (g * rank, in) and `.lora_B.weight` (g * out / n,
rank, 1), a convolution in g groups, and the update is lora_alpha / r times what it makes of A. The parts are those of
the rows as they lie, also where a model such as BLOOM keeps q, k and v of each head together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._config import DIFFERENT, whole
from adaptzip.checkpoints._merged_linear import spread, switches
from adaptzip.checkpoints._parts import linear_layout, misfit, number, part_of
from adaptzip.checkpoints._peft_method import Modules, PeftMethod
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckpointError


class _PeftMergedLinear(PeftMethod):
    """The dialect `peft-merged-linear`. Numbers stay as they are, with zeros where the other parts' rows are."""

    name = "peft-merged-linear"
    title = "PEFT's MergedLinear"
    judged_by = "a grouped convolution, as PEFT 0.2 computed it"
    signature = (Signature(r"^base_model\.model\..*\.lora_B\.weight$", "PEFT's MergedLinear"),)
    kind = "LORA"
    own = ".lora_"
    parts = r"[AB]\.weight"

    def sniff(self, source: Checkpoint) -> float:
        """Its keys are those of PEFT's LoRA: enable_lora and the convolutions tell."""
        convolutions = any(key.endswith(".lora_B.weight") and t.ndim == 3 for key, t in source.tensors.items())
        return super().sniff(source) if convolutions and (source.config or {}).get("enable_lora") else 0.0

    def factors(self, source: Checkpoint, raw: Mapping[str, Any], modules: Modules) -> dict[str, LoraFactors]:
        rank, enabled = whole("r", raw.get("r", 8), source.path), switches(raw.get("enable_lora"), source.path)
        scaling, layout = number(source, raw, "lora_alpha", 8) / rank, linear_layout(raw)
        found = {}
        for name, keys in modules.items():
            A, B = (part_of(source, name, keys, f"{side}.weight") for side in "AB")
            spread_out = spread(A, B[..., 0], enabled) if B.ndim == 3 and B.shape[2] == 1 else None
            if spread_out is None:
                parts = f"{sum(enabled)} of {len(enabled)} parts"
                raise misfit(
                    source, name, {"A": A, "B": B}, f"A (g * rank, in) and B (g * rows, rank, 1) of g = {parts}"
                )
            if B.shape[1] != rank:
                raise CheckpointError(
                    f"{source.weights}: module {name} has rank {B.shape[1]}, but adapter_config.json says {rank}",
                    hint=DIFFERENT,
                )
            found[name] = LoraFactors(A, spread_out, scaling, layout)
        return found


DIALECT = _PeftMergedLinear()
