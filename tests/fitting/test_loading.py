"""What is refused when an adapter is read to be compressed."""

from __future__ import annotations

import pytest
import torch

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import RefusedError
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Request


def large(scaling: float) -> Adapter:
    """An update of norm `scaling` times 1e20."""
    return Adapter({"a": LoraFactors(torch.full((1, 1), 1e10), torch.full((1, 1), 1e10), scaling)})


@pytest.mark.parametrize(("scaling", "refused"), [(1e-5, False), (0.0, False), (0.02, True), (-1.0, True)])
def test_the_size_of_an_update_counts_with_its_scale(scaling: float, refused: bool) -> None:
    if not refused:
        assert load_source(large(scaling), Request()).adapter.modules.keys() == {"a"}
        return
    with pytest.raises(RefusedError, match="module 'a': its update may be as large as"):
        load_source(large(scaling), Request())


def test_what_is_kept_as_it_is_need_not_be_squared() -> None:
    assert load_source(large(1.0), Request(lossless=True)).adapter.modules.keys() == {"a"}
