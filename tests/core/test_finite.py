"""Whether all numbers are finite."""

from __future__ import annotations

import pytest
import torch

from adaptzip.core.finite import all_finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_nan_and_infinity_are_found_and_large_numbers_are_none(dtype: torch.dtype) -> None:
    largest = torch.full((3, 4), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite(largest)  # though their sum is not finite in float32
    assert all_finite(torch.empty(0, 4, dtype=dtype))
    for wrong in (float("nan"), float("inf"), -float("inf")):
        found = torch.ones(3, 4, dtype=dtype)
        found[2, 1] = wrong
        assert not all_finite(found)
    both = torch.tensor([float("inf"), -float("inf")], dtype=dtype)
    assert not all_finite(both)
