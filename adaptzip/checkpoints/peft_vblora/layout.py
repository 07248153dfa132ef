"""The tensors of a VB-LoRA as PEFT keeps them: one bank, and by module which vectors mix to which piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._native import Native, NativeModule

TITLE = "PEFT's VB-LoRA"
BANK = "base_model.vblora_vector_bank"
"""Key of the bank, (vectors, length)."""
LOGITS = ".vblora_logits_"
INDICES, WEIGHTS = "_topk_indices", "_topk_weights"

_INDEX_DTYPES = ((2**8, torch.uint8), (2**15, torch.int16), (2**31, torch.int32))


@dataclass(frozen=True)
class Sizes:
    """What holds for all modules of a VB-LoRA alike.

    Attributes:
        rank: rows of A.
        vectors: h, vectors in the bank.
        length: b, numbers in a vector.
        top_k: k, vectors in a mixture.
    """

    rank: int
    vectors: int
    length: int
    top_k: int

    def logits_bytes(self, out: int, width: int) -> int:
        """Memory of a module's logits as PEFT unpacks them on loading: float32, one for each piece and vector."""
        return self.rank * (out + width) // self.length * self.vectors * 4


def index_dtype(vectors: int) -> torch.dtype:
    """The dtype that PEFT stores indices into a bank in."""
    return next((dtype for limit, dtype in _INDEX_DTYPES if vectors < limit), torch.int64)


def bank_of(config: Mapping[str, Any], module: NativeModule) -> Tensor:
    """The bank in the units of the update, (vectors, length) float32."""
    bank: Tensor = module.tensors["bank"].float() / config.get("scale", 1.0)
    return bank


def file_tensors(native: Native, sizes: Sizes, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """What adapter_model.safetensors holds of a fitting adapter, without its extras.

    The weights stay float32 whatever `dtype` says, as PEFT loads no others.
    """
    modules = {name: module for name, module in native.modules.items() if module.tensors}
    bank = bank_of(native.config, next(iter(modules.values())))
    tensors = {BANK: bank.to(dtype or torch.float32)}
    for name, module in modules.items():
        for side in ("A", "B"):
            key = f"{PREFIX}{name}{LOGITS}{side}"
            indices, weights = _codes(module, side, sizes)
            tensors[key + INDICES] = indices.to(index_dtype(sizes.vectors))
            tensors[key + WEIGHTS] = weights
    return tensors


def _filled_up(indices: Tensor, weights: Tensor, bank: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Codes of as many rows as all modules have: those that are lacking are zero."""
    lacking, zero = sizes.rank - len(indices), zero_vector(bank)
    if not lacking or zero is None:
        return indices, weights
    # The last vector of a mixture has what weights leave of 1; no vector may stand in it twice.
    others = [place for place in range(sizes.top_k) if place != zero][: sizes.top_k - 1]
    rows = torch.tensor([*others, zero], dtype=indices.dtype).expand(lacking, indices.shape[1], -1)
    return torch.cat([indices, rows]), torch.cat([weights, weights.new_zeros(lacking, *weights.shape[1:])])


def zero_vector(bank: Tensor) -> int | None:
    """The place of a vector of zeros in a bank, which rows that a module lacks are made of; None without any."""
    places = (~bank.bool().any(1)).nonzero()
    return int(places[-1, 0]) if len(places) else None


def _codes(module: NativeModule, side: str, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Indices (.., k) and all weights but the last (.., k - 1) of A (rank, pieces, ..) or B (pieces, rank, ..)."""
    pieces = (module.width if side == "A" else module.out) // sizes.length
    indices = module.tensors[f"{side}.indices"].reshape(-1, pieces, sizes.top_k)
    weights = module.tensors.get(f"{side}.weights")
    if weights is None:
        weights = torch.zeros(indices.shape[0] * pieces, 0)
    weights = weights.float().reshape(*indices.shape[:2], sizes.top_k - 1)
    indices, weights = _filled_up(indices, weights, module.tensors["bank"], sizes)
    if side == "B":
        indices, weights = indices.transpose(0, 1), weights.transpose(0, 1)
    return indices.contiguous(), weights.contiguous()
