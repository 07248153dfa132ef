"""Settings of a bank for many adapters: what is tried, and what it is held against."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.workers import on_one_core
from adaptzip.errors import CheckFailedError
from adaptzip.methods._banks.fleet import Sample, draw
from adaptzip.methods._banks.search import Setting
from adaptzip.methods._banks.trying import _gaussian_bits, _lengths, _rank, settled
from tests.cases.shared_pieces import RANK, WIDTH, alike

CPU = torch.device("cpu")


def sample_of(count: int) -> Sample:
    adapters = alike(count)
    return draw(lambda: (adapter.modules for adapter in adapters), 0)


def test_bits_of_independent_numbers() -> None:
    # One component of energy 8 in 4 numbers at an error of 2: a quarter of the variance, one bit for each number.
    assert _gaussian_bits([(np.array([8.0]), 4)], 2.0) == pytest.approx(4.0, rel=1e-6)
    # A component below the water line is left out, and its energy is part of the error.
    assert _gaussian_bits([(np.array([8.0, 0.1]), 4)], 2.1) == pytest.approx(4.0, rel=1e-6)
    assert _gaussian_bits([(np.array([8.0]), 4)], 8.0) == pytest.approx(0.0, abs=1e-6)


def test_the_rank_keeps_nearly_all() -> None:
    assert _rank(sample_of(4), CPU) == RANK


def test_lengths_divide_all_widths_where_they_can() -> None:
    found = _lengths({"a": LoraFactors(torch.zeros(2, 48), torch.zeros(96, 2))})
    assert found[0] == 4
    assert found[-1] == 48
    assert all(48 % length == 0 for length in found)
    assert _lengths({"a": LoraFactors(torch.zeros(2, 7), torch.zeros(31, 2))}) == [4, 8, 16]


@on_one_core()
def test_what_is_asked_for_is_kept_and_the_rest_decided() -> None:
    sample = sample_of(16)
    asked = settled(sample, Setting(rank=1, length=8, vectors=9, top_k=1), 64, 2.0**30, CPU)
    assert (asked.rank, asked.length, asked.vectors, asked.top_k) == (1, 8, 9, 1)
    found = settled(sample, Setting(vectors=40), 64, 2.0**30, CPU)
    assert found.vectors == 40
    assert (found.rank, found.top_k) == (RANK, 2)
    assert WIDTH % (found.length or 0) == 0


def test_logits_stay_within_memory() -> None:
    sample = sample_of(16)
    most = 4 * 2 * 2 * RANK * 30
    found = settled(sample, Setting(length=WIDTH), 64, most, CPU)
    assert found.vectors is not None
    assert found.vectors <= 30
    with pytest.raises(CheckFailedError, match="option memory"):
        settled(sample, Setting(length=WIDTH), 64, 4.0, CPU)
