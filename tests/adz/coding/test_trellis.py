"""The quantiser: close to its numbers, and better than rounding."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptzip.adz.coding import entropy, search, tables, trellis
from adaptzip.adz.coding.classes import choose_classes
from adaptzip.adz.coding.levels import Levels
from adaptzip.adz.coding.modules import _first_classes
from adaptzip.adz.coding.trellis import Quantised
from formats import decoder

RATES = torch.from_numpy(tables.bits())


def quantise(*blocks: Tensor, step: float = 1.0) -> list[Quantised]:
    return search.quantise(blocks, [_first_classes(block, step)[1] for block in blocks], RATES, step)


def gaussian(rows: int, width: int, deviation: float = 2.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * deviation


def test_the_decoder_walks_the_same_trellis() -> None:
    walked = [[decoder.next_state(state, parity) for parity in (0, 1)] for state in range(trellis.STATES)]
    assert trellis.next_states().tolist() == walked


@pytest.mark.parametrize("shape", [(1, 1), (1, 127), (1, 129), (3, 43), (8, 16), (2, 300), (1, 32769)])
def test_numbers_come_back_close_and_with_the_quantisers_of_the_trellis(shape: tuple[int, int]) -> None:
    x = gaussian(*shape, deviation=5.0)
    (found,) = quantise(x)
    assert found.levels.shape == found.quantiser.shape == shape
    assert float((x - torch.from_numpy(found.values())).abs().max()) < 4
    state = 0
    for level, quantiser in zip(found.levels.reshape(-1), found.quantiser.reshape(-1), strict=True):
        assert quantiser == state & 1
        state = int(trellis.next_states()[state, level & 1])


def test_blocks_searched_together_are_as_if_alone() -> None:
    blocks = [gaussian(2, 100), gaussian(1, 3, 50.0), gaussian(5, 7000, seed=1), gaussian(1, 128, 0.1)]
    for block, together in zip(blocks, quantise(*blocks), strict=True):
        (alone,) = quantise(block)
        assert np.array_equal(together.levels, alone.levels)
        assert np.array_equal(together.quantiser, alone.quantiser)


def test_the_step_scales_the_result_and_nothing_else() -> None:
    x = gaussian(4, 64)
    (one,), (other,) = quantise(x), quantise(x * 0.25, step=0.25)
    assert np.array_equal(one.levels, other.levels)


def test_large_levels_fit() -> None:
    x = torch.tensor([[2.0**19, -(2.0**19), 1.0, 0.0, 65536.0 * 2]])
    (found,) = quantise(x)
    assert float((x - torch.from_numpy(found.values())).abs().max()) <= 2


@pytest.mark.parametrize(("deviation", "gap"), [(1.0, 0.11), (2.0, 0.09), (8.0, 0.09), (100.0, 0.12)])
def test_bits_are_close_to_the_bound(deviation: float, gap: float) -> None:
    """An entropy-coded scalar quantiser needs 0.25 bits more than the rate-distortion function at high rates."""
    x = gaussian(8, 4000, deviation)
    (found,) = quantise(x)
    scales = tables.scale_index(x.double().square().mean(1).sqrt().numpy())
    chunk = entropy.encode(8, 8, [Levels(found, choose_classes(found, scales))])
    error = float((x - torch.from_numpy(found.values())).square().mean())
    bound = 0.5 * log2(float(x.square().mean()) / error)
    assert 8 * len(chunk) / x.numel() < bound + gap
