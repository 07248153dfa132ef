"""Which dtypes an adapter's tensors have, and which shorter ones would hold them."""

from __future__ import annotations

import pytest
import torch

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.reports import describing
from adaptzip.reports.describing import describe


@pytest.mark.parametrize("together", [1, 20, 2**20])
def test_tensors_that_a_shorter_dtype_holds_are_counted(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describing, "_TOGETHER", together)
    torch.manual_seed(0)
    random = torch.randn(2, 6)
    parts = [
        (random, random.T.contiguous()),  # neither holds these
        (random.bfloat16().float(), random.T.bfloat16().float()),
        (random.half().float(), torch.zeros(6, 2)),  # zeros count for nothing
        (torch.full((2, 6), 2.0**100), torch.full((6, 2), 0.5)),  # the first is beyond float16, the second in both
        (random.half(), random.T.half()),
    ]
    modules = {f"m.{i}": LoraFactors(A, B) for i, (A, B) in enumerate(parts)}
    full, half = sorted(describe(Adapter(modules)).dtypes, key=lambda found: -found.tensors)
    assert (full.dtype, full.tensors, full.exact_bfloat16, full.exact_float16) == (
        "float32",
        8,
        4,
        4,
    )  # float16 holds those of bfloat16 too
    assert (half.dtype, half.tensors, half.exact_bfloat16, half.exact_float16) == ("float16", 2, 0, 0)
