"""PEFT's LoHa: the element-wise product of two low-rank updates.

Hyeon-Woo et al. 2021, arXiv:2108.06098. The file holds `<module>.hada_w1_a` (out, rank), `.hada_w1_b` (rank, in) and
`.hada_w2_a`, `.hada_w2_b` likewise; the update is alpha / rank * (w1_a w1_b) * (w2_a w2_b). With use_effective_conv2d a
convolution has cores `.hada_t1`, `.hada_t2` (rank, rank, kernel), w1_a (rank, out) and w1_b (rank, channels).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from adaptzip.checkpoints._base import Signature
from adaptzip.checkpoints._peft_lycoris import PeftLycoris
from adaptzip.checkpoints._products import Factors, hadamard


class _PeftLoha(PeftLycoris):
    """The dialect `peft-loha`. The factors have the square of the rank, and are exact products."""

    name = "peft-loha"
    title = "PEFT's LoHa"
    judged_by = "PEFT"
    signature = (Signature(r"^base_model\.model\..*\.hada_(w[12]_[ab]|t[12])$", "PEFT's LoHa"),)
    kind = "LOHA"
    own = ".hada_"
    parts = "w[12]_[ab]|t[12]"
    needed = ("w1_a", "w1_b", "w2_a", "w2_b")

    def product(self, parts: Mapping[str, Tensor]) -> Factors:
        return hadamard(**parts)


DIALECT = _PeftLoha()
