"""The quantiser: dealt to lanes, searched side by side, close to its numbers, and better than rounding."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptzip.adz.coding import entropy, tables, trellis
from adaptzip.adz.coding.classes import choose_classes
from adaptzip.adz.coding.levels import Levels
from adaptzip.adz.coding.modules import _first_classes
from adaptzip.adz.coding.trellis import Quantised, lanes_of, stages_of
from formats import decoder

RATES = torch.from_numpy(tables.bits())


def quantise(*blocks: Tensor, step: float = 1.0) -> list[Quantised]:
    return trellis.quantise(blocks, [_first_classes(block, step)[1] for block in blocks], RATES, step)


def gaussian(rows: int, width: int, deviation: float = 2.0, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * deviation


def test_the_decoder_walks_the_same_trellis() -> None:
    walked = [[decoder.next_state(state, parity) for parity in (0, 1)] for state in range(trellis.STATES)]
    assert trellis.next_states().tolist() == walked


@pytest.mark.parametrize("numbers", [1, 2, 127, 128, 129, 256, 1000, 32767, 32768, 32769, 100_000])
def test_lanes_hold_every_number(numbers: int) -> None:
    lanes, stages = lanes_of(numbers), stages_of(numbers)
    assert lanes * stages >= numbers > (lanes - 1) * stages
    assert stages == (128 if numbers < 32768 else 64)


@pytest.mark.parametrize("shape", [(1, 1), (1, 127), (1, 129), (3, 43), (8, 16), (2, 300), (1, 32769)])
def test_numbers_come_back_close_and_with_the_quantisers_of_their_lanes(shape: tuple[int, int]) -> None:
    x = gaussian(*shape, deviation=5.0)
    (found,) = quantise(x)
    assert found.levels.shape == found.quantiser.shape == shape
    assert float((x - torch.from_numpy(found.values())).abs().max()) < 4
    lanes, states = lanes_of(x.numel()), trellis.next_states()
    state = np.zeros(lanes, dtype=np.int64)
    levels, quantiser = found.levels.reshape(-1), found.quantiser.reshape(-1)
    for start in range(0, x.numel(), lanes):
        part = slice(start, min(start + lanes, x.numel()))
        width = part.stop - part.start
        assert np.array_equal(quantiser[part], state[:width] & 1)
        state[:width] = states[state[:width], levels[part] & 1]


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


def test_lanes_searched_a_few_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    block = torch.randn(40, 50, generator=torch.Generator().manual_seed(3))
    classes = torch.arange(40) % 7
    (whole,) = trellis.quantise([block], [classes], RATES, 0.3)
    for most in (1, 5, 15, 16, 17):
        monkeypatch.setattr(trellis, "_LANES", {"cpu": most})
        (parts,) = trellis.quantise([block], [classes], RATES, 0.3)
        assert np.array_equal(parts.levels, whole.levels)
        assert np.array_equal(parts.quantiser, whole.quantiser)
