"""VB-LoRA as the authors' own repository saves it: a state_dict() of the whole model, and its config.json.

Li, Han and Ji 2024, arXiv:2405.15179. The file holds `<module>.logits_A` (in / length, rank, vectors), `.logits_B`
(out / length, rank, vectors), and one bank (vectors, length), the model's `vector_bank`, which stands under every
module again. A piece of a factor's row is a mixture of the `topk` vectors with the largest logits, by the softmax of
these alone. The update is B A, without a scale. A's first two dimensions lie the other way round in PEFT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._config import DIFFERENT, whole
from adaptzip.checkpoints._parts import AGAIN, Parts, check_numbers, misfit, part_of
from adaptzip.checkpoints._state_dict import StateDict, layout_fits, layout_of, weight_shapes
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckpointError

_BANK = "vector_bank"


class _VbloraNlu(StateDict):
    """The dialect `vblora-nlu`. Pieces are mixed in float32."""

    name = "vblora-nlu"
    title = "the authors' VB-LoRA"
    judged_by = "the authors' saved updates"
    signature = (Signature(r"^(?!base_model\.model\.).*\.logits_[AB]$", "a VB-LoRA of its authors"),)
    own = ".logits_"
    parts = f"logits_[AB]|{_BANK}"

    def factors(
        self, source: Checkpoint, raw: Mapping[str, Any], modules: Mapping[str, Parts], others: Mapping[str, str]
    ) -> dict[str, LoraFactors]:
        bank, mixed = _bank(source, modules), {name: keys for name, keys in modules.items() if set(keys) != {_BANK}}
        if raw.get("topk") is None:
            raise CheckpointError(
                f"{source.weights}: no configuration beside it says topk, so that its mixtures are unknown",
                hint='put its config.json beside it, or give a file with {"topk": ...} by `config=`',
            )
        shapes = weight_shapes(source, mixed, others)
        top_k = whole("topk", raw["topk"], source.path)
        return {name: _factors(source, name, keys, shapes[name], bank, top_k) for name, keys in mixed.items()}


def _bank(source: Checkpoint, modules: Mapping[str, Parts]) -> Tensor:
    """The bank (vectors, length), float32.

    Raises:
        CheckpointError: if the model has none of its own, or a module has another.
    """
    owners = [name for name, keys in modules.items() if set(keys) == {_BANK}]
    if len(owners) != 1 or not all(f"{name}.".startswith(f"{owners[0]}.") for name in modules):
        there = " and ".join(owners) or "none"
        raise CheckpointError(
            f"{source.weights}: has banks of {there}, expected one {_BANK} of the model that all modules are in",
            hint=AGAIN,
        )
    own = modules[owners[0]][_BANK]
    bank = source.tensors[own]
    check_numbers(source, own)
    for name, keys in modules.items():
        found = part_of(source, name, keys, _BANK)
        if not torch.equal(found, bank):
            raise CheckpointError(f"{source.weights}: {keys[_BANK]} is another than {own}", hint=AGAIN)
    if bank.ndim != 2 or 0 in bank.shape:
        raise CheckpointError(f"{source.weights}: {own} is {list(bank.shape)}, expected (vectors, length)", hint=AGAIN)
    return bank.float()


def _factors(
    source: Checkpoint, name: str, keys: Parts, shape: tuple[int, ...] | None, bank: Tensor, top_k: int
) -> LoraFactors:
    logits = {part: part_of(source, name, keys, part) for part in ("logits_A", "logits_B")}
    a, b = logits.values()
    fits = a.ndim == b.ndim == 3 and a.shape[1:] == b.shape[1:] and a.shape[2] == len(bank)
    if not fits or 0 in (*a.shape, *b.shape):
        raise misfit(source, name, logits, f"(pieces, rank, {len(bank)}) both, a logit for each vector of the bank")
    if top_k > len(bank):
        raise CheckpointError(f"{source.path}: topk is {top_k}, but the bank has {len(bank)} vectors", hint=DIFFERENT)
    A, B = (_mixed(part, bank, top_k) for part in (a, b))
    if not layout_fits(shape, B.shape[1], A.shape[1]):
        raise misfit(source, name, logits, f"pieces of {bank.shape[1]} numbers, of a weight {list(shape or ())}")
    return LoraFactors(A, B.T.contiguous(), 1.0, layout_of(shape, B.shape[1], A.shape[1]))


def _mixed(logits: Tensor, bank: Tensor, top_k: int) -> Tensor:
    """The rows (rank, pieces * length) that logits (pieces, rank, vectors) make of a bank (vectors, length)."""
    largest, indices = logits.float().topk(top_k, dim=-1)
    pieces = (torch.softmax(largest, dim=-1).unsqueeze(-1) * bank[indices]).sum(-2)
    return pieces.transpose(0, 1).reshape(logits.shape[1], -1).contiguous()


DIALECT = _VbloraNlu()
