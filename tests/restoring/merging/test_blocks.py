"""Rows of a weight merged apart are the rows of the weight merged as a whole, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.models.adding import row_blocks
from adaptzip.restoring.merging.edits import BiasUpdate, Edit, Padding, Replacement, TokenRows, Update

R = torch.randn
OUT, WIDTH, RANK = 12, 10, 3


def factors(out: int = OUT, width: int = WIDTH, magnitude: Tensor | None = None) -> LoraFactors:
    return LoraFactors(R(RANK, width), R(out, RANK), 1.7, magnitude=magnitude)


def update(layout: Layout, magnitude: Tensor | None = None, rows: tuple[int, int] | None = None) -> Update:
    return Update(factors(OUT if rows is None else 2 * OUT, magnitude=magnitude), layout, rows)


EDITS: Mapping[str, tuple[Edit, tuple[int, ...]]] = {
    "linear": (update("linear"), (OUT, WIDTH)),
    "linear, some rows of the update": (update("linear", rows=(OUT, 2 * OUT)), (OUT, WIDTH)),
    "transposed": (update("transposed"), (WIDTH, OUT)),
    "transposed, some rows of the update": (update("transposed", rows=(OUT, 2 * OUT)), (WIDTH, OUT)),
    "embedding": (update("embedding"), (WIDTH, OUT)),
    "dora": (update("linear", R(OUT)), (OUT, WIDTH)),
    "dora, some rows of the update": (update("linear", R(2 * OUT), (OUT, 2 * OUT)), (OUT, WIDTH)),
    "an expert": (Update(factors(), "expert", expert=4), (6, OUT, WIDTH)),
    "an expert, transposed": (Update(factors(), "expert_transposed", expert=4), (6, WIDTH, OUT)),
    "a part of an expert": (Update(factors(), "expert", expert=1, part=(1, 2)), (6, 2 * OUT, WIDTH)),
    "a bias": (BiasUpdate(R(OUT), 0.3), (OUT,)),
    "a replacement": (Replacement(R(OUT, WIDTH)), (OUT, WIDTH)),
    "rows of tokens": (TokenRows(torch.tensor([7, 0, 3]), R(3, WIDTH)), (OUT, WIDTH)),
}
WHOLE: Mapping[str, Edit] = {
    "a convolution": Update(LoraFactors(R(2, 18), R(4, 2), kernel=(3, 3), layout="conv"), "conv"),
    "dora, transposed": update("transposed", R(OUT)),
    "dora by inputs": update("linear", R(1, WIDTH)),
    "a part of fused rows": Update(factors(), "linear", part=(1, 2)),
    "padding": Padding(20),
    "a replacement by one number": Replacement(torch.tensor(1.0)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("step", [1, 4, 5, 100])
@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("safe", [False, True])
def test_rows_apart_are_rows_of_the_whole(kind: str, step: int, dtype: torch.dtype, safe: bool) -> None:
    edit, shape = EDITS[kind]
    weight = R(shape).to(dtype)
    whole = edit.apply(weight.clone(), safe)
    parts = []
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        of_rows = edit.on_rows(start, stop)
        assert of_rows is not None
        parts.append(of_rows.apply(weight[start:stop].clone(), safe))
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole, weight)


@pytest.mark.parametrize("layout", ["linear", "transposed"])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 127, 128, 129, 1000, 1025])
@pytest.mark.parametrize("rank", [1, 2, 7, 16, 64])
def test_blocks_end_in_the_same_bits(layout: Layout, rows: int, rank: int) -> None:
    """Products of fewer than four rows by hundreds of columns end in other bits than those of many."""
    out, width = (rows, 300) if layout == "linear" else (300, rows)
    edit = Update(LoraFactors(R(rank, width), R(out, rank), 1.7), layout)
    weight = R(rows, 300).bfloat16()
    blocks = list(row_blocks(weight.shape, 300 * 64))
    parts = [found.apply(weight[slice(*block)].clone(), False) for block in blocks if (found := edit.on_rows(*block))]
    assert torch.equal(torch.cat(parts), edit.apply(weight.clone(), False))
    assert all(stop - start >= min(64, rows) for start, stop in blocks)


@pytest.mark.parametrize(
    ("shape", "numbers"), [((7,), 3), ((300, 5), 100), ((300, 5), 10**6), ((9, 4, 5), 41), ((1, 9), 1)]
)
def test_blocks_are_all_rows(shape: tuple[int, ...], numbers: int) -> None:
    blocks = list(row_blocks(shape, numbers))
    assert [row for block in blocks for row in range(*block)] == list(range(shape[0]))


def test_an_empty_weight_has_no_blocks() -> None:
    assert list(row_blocks((0, 4), 10)) == list(row_blocks((4, 0), 10)) == []


@pytest.mark.parametrize("kind", WHOLE)
def test_what_hangs_together_stays_whole(kind: str) -> None:
    assert WHOLE[kind].on_rows(0, 1) is None
