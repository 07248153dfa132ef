"""PEFT's LoKr: the Kronecker product of two small matrices, each whole or of low rank.

Yeh et al. 2023, arXiv:2309.14859. The file holds `<module>.lokr_w1` (a, c), or `.lokr_w1_a` (a, rank) and `.lokr_w1_b`
(rank, c); and `.lokr_w2` (b, d, kernel), or `.lokr_w2_a` (b, rank) and `.lokr_w2_b` (rank, d * kernel), or with
use_effective_conv2d a core `.lokr_t2` (rank, rank, kernel), w2_a (rank, b) and w2_b (rank, d). The update is
alpha / rank times their product, (a * b, c * d, kernel), also where neither has a rank.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Signature
from adaptzip.checkpoints._peft_lycoris import PeftLycoris
from adaptzip.checkpoints._products import Factors, dense, kronecker


class _PeftLokr(PeftLycoris):
    """The dialect `peft-lokr`. The factors have the product of both ranks, and are exact products."""

    name = "peft-lokr"
    title = "PEFT's LoKr"
    judged_by = "PEFT"
    signature = (Signature(r"^base_model\.model\..*\.lokr_(w[12](_[ab])?|t2)$", "PEFT's LoKr"),)
    kind = "LOKR"
    own = ".lokr_"
    parts = "w[12](?:_[ab])?|t2"

    def product(self, parts: Mapping[str, Tensor]) -> Factors:
        """As PEFT has it, which puts a whole w2 of a convolution in one dimension elsewhere than LyCORIS does."""
        B, A = kronecker(**parts)
        if "w2" in parts and parts["w2"].ndim == 3:
            return _shifted(parts, A.dtype)
        return B, A


def _shifted(parts: Mapping[str, Tensor], dtype: torch.dtype) -> Factors:
    """The product with a w2 (b, d, kernel) whose dimensions meet those of w1 (a, c) one late: (b, a * d, c * kernel).

    PEFT reads its numbers, row by row, as the update (a * b, c * d, kernel).
    """
    w1 = parts["w1"].to(dtype) if "w1" in parts else parts["w1_a"].to(dtype) @ parts["w1_b"].to(dtype)
    w2 = parts["w2"].to(dtype)
    return dense(torch.kron(w1.contiguous(), w2.contiguous()).reshape(w1.shape[0] * w2.shape[0], -1))


DIALECT = _PeftLokr()
