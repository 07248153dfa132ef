"""PEFT's MiSS: one small block that is added to every part of a weight.

Kang et al. 2024, arXiv:2409.15371. The file holds `<module>.miss_block`, and init_weights of the configuration says
what it means to a weight W (out, in), which the file does not have the width of:

- true or false: a block (rank, out) is added, transposed, to each `rank` columns in a row, the last ones cut off;
- "mini": a block (rank, mini_r) is first repeated until it has `out` columns;
- "bat": blocks M (out / rank, rank, rank), where each part P (rank, rank) of W becomes P + P M + M.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import BaseTensors, Checkpoint, Signature
from adaptzip.checkpoints._base_shapes import base_of, sides
from adaptzip.checkpoints._config import shown, whole
from adaptzip.checkpoints._parts import AGAIN, misfit, part_of
from adaptzip.checkpoints._peft_method import Modules, PeftMethod
from adaptzip.checkpoints._products import Factors, dense
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import BaseModelError, CheckpointError

_WHY = "to tell how large the weights are that its blocks are added to"


class _PeftMiss(PeftMethod):
    """The dialect `peft-miss`. A block is B, and A says with zeros and ones where it is added, both exactly.

    An update of "bat" is a product with the base weights, and of full rank.
    """

    name = "peft-miss"
    title = "PEFT's MiSS"
    judged_by = "PEFT"
    signature = (Signature(r"^base_model\.model\..*\.miss_block$", "PEFT's MiSS"),)
    kind = "MISS"
    own = ".miss_"
    parts = "block"

    def factors(self, source: Checkpoint, raw: Mapping[str, Any], modules: Modules) -> dict[str, LoraFactors]:
        rank, kind = whole("r", raw.get("r", 64), source.path), raw.get("init_weights", True)
        if kind not in (True, False, "mini", "bat"):
            raise CheckpointError(
                f"{source.path}: init_weights is {shown(kind)}, expected true, false, 'mini' or 'bat'", hint=AGAIN
            )
        blocks = {name: part_of(source, name, keys, "block") for name, keys in modules.items()}
        shapes = sides(source, modules, "linear", _WHY)
        base, found = base_of(source, modules, _WHY), {}
        for name, block in blocks.items():
            _check(source, raw, name, block, shapes[name], rank)
            B, A = _multiplied(base, name, block) if kind == "bat" else _added(block, shapes[name])
            found[name] = LoraFactors(A, B)
        return found


def _check(
    source: Checkpoint, raw: Mapping[str, Any], name: str, block: Tensor, shape: tuple[int, int], rank: int
) -> None:
    """Refuse a block that does not fit the configuration and the base weight."""
    kind, (out, width) = raw.get("init_weights", True), shape
    columns = whole("mini_r", raw.get("mini_r", 1), source.path) if kind == "mini" else out
    expected = (out // rank, rank, rank) if kind == "bat" else (rank, columns)
    cut = out % rank or width % rank if kind == "bat" else out % columns or rank > width
    if tuple(block.shape) != expected or cut:
        raise misfit(
            source, name, {"block": block}, f"{list(expected)} for rank {rank} and a base weight [{out}, {width}]"
        )


def _added(block: Tensor, shape: tuple[int, int]) -> Factors:
    """B (out, rank), the block, and A (rank, in), a one where a column of W is the block's."""
    (out, width), rank = shape, block.shape[0]
    A = torch.zeros(rank, width, dtype=block.dtype)
    columns = torch.arange(width)
    A[columns % rank, columns] = 1
    return block.T.repeat(out // block.shape[1], 1), A


def _multiplied(base: BaseTensors, name: str, blocks: Tensor) -> Factors:
    """The dense P M + M of all parts P of the base weight."""
    weight = base.read(f"{name}.weight")
    if weight is None:
        raise BaseModelError(f"the base model has no weight of module {name}", hint=AGAIN)
    M, rank = blocks.to(torch.promote_types(blocks.dtype, torch.float32)), blocks.shape[-1]
    out, width = weight.shape
    parts = weight.to(M.dtype).reshape(out // rank, rank, width // rank, rank).permute(2, 0, 1, 3)
    return dense((parts @ M + M).permute(1, 2, 0, 3).reshape(out, width))


DIALECT = _PeftMiss()
