"""IncreLoRA: a state_dict() of the whole model, with lists of rank-1 blocks that grew as it was trained.

Zhang et al. 2023, arXiv:2308.12043. The file holds `<module>.lora_A.<i>` (k, in), `.lora_E.<i>` (k, 1) and
`.lora_B.<i>` (out, k) for each block, and `.ranknum` (1,), and the update is lora_alpha / (ranknum + 1e-5) times the
sum of the blocks' B diag(E) A. The last block is a reserve for growing, with E = 0 at the end of training: it is
dead, and not counted in ranknum. In the middle of training it has E = 1e-5, and counts. lora_alpha is in config.json;
where it is not positive, the rank of the first block stands for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adaptzip.checkpoints._adaptive import AdaptiveRanks, kept_ranks, rank_number, scale_of
from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._parts import AGAIN, Parts, misfit, part_of
from adaptzip.checkpoints._state_dict import layout_fits, layout_of
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckpointError, RefusedError

_SIDES = ("lora_A", "lora_E", "lora_B")


class _Increlora(AdaptiveRanks):
    """The dialect `increlora`. Blocks are put together; E is folded into B, rounded once to float32."""

    name = "increlora"
    title = "IncreLoRA"
    judged_by = "the authors' saved updates"
    signature = (Signature(r"\.lora_[AEB]\.\d+$", "an IncreLoRA"),)
    parts = r"lora_[AEB]\.\d{1,4}|ranknum"

    def module(
        self, source: Checkpoint, name: str, keys: Parts, shape: tuple[int, ...] | None, alpha: float
    ) -> LoraFactors:
        if "ranknum" not in keys:
            raise RefusedError(
                f"{source.weights}: module {name} has no ranknum, by which its update is divided and which its "
                f"{_count(source, name, keys)} blocks do not tell",
                hint="give the whole model beside it, pytorch_model.bin, with `base=DIR`",
            )
        blocks = [_block(source, name, keys, i) for i in range(_count(source, name, keys))]
        A, E, B = _joined(source, name, blocks)
        if not layout_fits(shape, B.shape[0], A.shape[1]):
            raise misfit(source, name, {"lora_A": A, "lora_B": B}, f"those of a weight {list(shape or ())}")
        scaling = scale_of(alpha, len(blocks[0][0]), rank_number(source, name, keys))
        return LoraFactors(*kept_ranks(A, E, B), scaling, layout_of(shape, B.shape[0], A.shape[1]))


Block = tuple[Tensor, Tensor, Tensor]
"""A (k, in), E (k, 1) and B (out, k)."""


def _count(source: Checkpoint, name: str, keys: Parts) -> int:
    """How many blocks a module has: 0, 1, ... of each side.

    Raises:
        CheckpointError: if one is missing.
    """
    numbers = {side: sorted(int(part.rpartition(".")[2]) for part in keys if part.startswith(side)) for side in _SIDES}
    count = max(len(found) for found in numbers.values())
    for side, found in numbers.items():
        if found != list(range(count)) or not count:
            there = ", ".join(map(str, found)) or "none"
            raise CheckpointError(
                f"{source.weights}: module {name} has the blocks {there} of {side}, expected 0 to {max(count, 1) - 1} "
                "as of the other sides",
                hint=AGAIN,
            )
    return count


def _block(source: Checkpoint, name: str, keys: Parts, i: int) -> Block:
    A, E, B = (part_of(source, name, keys, f"{side}.{i}") for side in _SIDES)
    fits = A.ndim == B.ndim == 2 and tuple(E.shape) == (A.shape[0], 1) and A.shape[0] == B.shape[1]
    if not fits or 0 in (*A.shape, *B.shape):
        found = {f"lora_A.{i}": A, f"lora_E.{i}": E, f"lora_B.{i}": B}
        raise misfit(source, name, found, "(k, in), (k, 1) and (out, k)")
    return A, E, B


def _joined(source: Checkpoint, name: str, blocks: Sequence[Block]) -> Block:
    """All blocks as one."""
    A, _, B = blocks[0]
    for i, (a, _, b) in enumerate(blocks):
        if a.shape[1] != A.shape[1] or b.shape[0] != B.shape[0]:
            found = {f"lora_A.{i}": a, f"lora_B.{i}": b}
            raise misfit(source, name, found, f"the widths of its first block, {A.shape[1]} and {B.shape[0]}")
    return (
        torch.cat([a for a, _, _ in blocks]),
        torch.cat([e for _, e, _ in blocks]),
        torch.cat([b for *_, b in blocks], 1),
    )


DIALECT = _Increlora()
