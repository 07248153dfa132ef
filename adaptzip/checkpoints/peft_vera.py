"""PEFT's VeRA: two frozen random matrices that all modules share, and two trained vectors for each.

Kopiczko et al. 2024, arXiv:2310.11454. The file holds `base_model.vera_A` (rank, widest in), `base_model.vera_B`
(widest out, rank), and `<module>.vera_lambda_b` (out,) and `.vera_lambda_d` (rank,); the update is
diag(lambda_b) B diag(lambda_d) A, of the first `out` rows of B and the first `in` columns of A. Nothing in the file
says what `in` is, unless the module is the only one.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._base_shapes import sides
from adaptzip.checkpoints._config import DIFFERENT, whole
from adaptzip.checkpoints._parts import AGAIN, Parts, check_numbers, linear_layout, misfit, part_of
from adaptzip.checkpoints._peft_method import Modules, PeftMethod
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckpointError, warn

_A, _B = "base_model.vera_A", "base_model.vera_B"


class _PeftVera(PeftMethod):
    """The dialect `peft-vera`. The vectors are multiplied into A and B in float32."""

    name = "peft-vera"
    title = "PEFT's VeRA"
    judged_by = "PEFT"
    signature = (Signature(r"^base_model\.(model\..*\.vera_lambda_[bd]|vera_[AB])$", "PEFT's VeRA"),)
    kind = "VERA"
    own = ".vera_"
    parts = "lambda_[bd]"
    shared = r"base_model\.vera_[AB]"

    def factors(self, source: Checkpoint, raw: Mapping[str, Any], modules: Modules) -> dict[str, LoraFactors]:
        """Where the file has no A and B, they are drawn from projection_prng_key as PEFT draws them, with a warning."""
        rank, layout = whole("r", raw.get("r", 256), source.path), linear_layout(raw)
        vectors = {name: _vectors(source, name, keys, rank) for name, keys in modules.items()}
        there = _A in source.tensors or _B in source.tensors
        if there and len(modules) == 1 and source.base is None:
            A, B = _shared(source, rank)
            shapes = {name: (b.shape[0], A.shape[1]) for name, (b, _) in vectors.items()}
        else:
            shapes = sides(source, modules, layout, "to tell how many inputs each module has")
            A, B = _shared(source, rank) if there else _drawn(source, raw, rank, shapes)
        return {
            name: LoraFactors(*_factors(source, name, A, B, vectors[name], shapes[name]), layout=layout)
            for name in modules
        }


def _vectors(source: Checkpoint, name: str, keys: Parts, rank: int) -> tuple[Tensor, Tensor]:
    """lambda_b (out,) and lambda_d (rank,) of a module."""
    b, d = (part_of(source, name, keys, part) for part in ("lambda_b", "lambda_d"))
    if b.ndim != 1 or not b.shape[0] or tuple(d.shape) != (rank,):
        raise misfit(source, name, {"lambda_b": b, "lambda_d": d}, f"lambda_b (out,) and lambda_d ({rank},)")
    return b, d


def _shared(source: Checkpoint, rank: int) -> tuple[Tensor, Tensor]:
    """A and B of the file."""
    for key, other in ((_A, _B), (_B, _A)):
        if key not in source.tensors:
            raise CheckpointError(f"{source.weights}: has {other} but no {key}", hint=AGAIN)
        check_numbers(source, key)
    A, B = source.tensors[_A], source.tensors[_B]
    if A.ndim != 2 or B.ndim != 2 or not A.shape[0] == B.shape[1] == rank:
        raise CheckpointError(
            f"{source.weights}: vera_A is {list(A.shape)} and vera_B is {list(B.shape)}, expected ({rank}, in) and "
            f"(out, {rank})",
            hint=DIFFERENT,
        )
    return A, B


def _drawn(
    source: Checkpoint, raw: Mapping[str, Any], rank: int, shapes: Mapping[str, tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """A and B as PEFT draws them for the largest sides of all modules: uniform, of variance 2 / (columns)."""
    key = whole("projection_prng_key", raw.get("projection_prng_key", 0), source.path, 0)
    warn(
        f"{source.weights}: vera_A and vera_B are not in it, and are drawn from projection_prng_key {key} as PEFT "
        "does; another version of torch may have drawn other numbers in training"
    )
    generator = torch.Generator().manual_seed(key)
    out, width = (max(shape[side] for shape in shapes.values()) for side in (0, 1))
    drawn = []
    for shape in ((rank, width), (out, rank)):
        bound = sqrt(3.0) * (sqrt(2.0) / sqrt(shape[1]))
        drawn.append(torch.empty(shape).uniform_(-bound, bound, generator=generator))
    return drawn[0], drawn[1]


def _factors(
    source: Checkpoint,
    name: str,
    A: Tensor,
    B: Tensor,
    vectors: tuple[Tensor, Tensor],
    shape: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """A and B of one module: its corner of the shared ones, times its vectors."""
    b, d = (vector.to(torch.promote_types(vector.dtype, torch.float32)) for vector in vectors)
    out, width = shape
    if b.shape[0] != out or A.shape[1] < width or B.shape[0] < out:
        raise CheckpointError(
            f"{source.weights}: module {name} has lambda_b {list(b.shape)} beside vera_A {list(A.shape)} and vera_B "
            f"{list(B.shape)}, but its base weight has {out} outputs and {width} inputs",
            hint="is this the base model that the adapter was trained on?",
        )
    return d[:, None] * A[:, :width], b[:, None] * B[:out]


DIALECT = _PeftVera()
