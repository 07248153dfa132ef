"""The entropy coder's models are, interval by interval, those that the format's text defines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from constriction import stream
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptzip.adz.coding import contexts, levels, planes, tables
from formats import decoder

WHOLE = 2**decoder.PRECISION


def symbol_at(model: Any, quantile: int) -> int:
    """The symbol whose interval holds a quantile."""
    return int(stream.stack.AnsCoder(np.array([quantile, 1], dtype=np.uint32)).decode(model, 1)[0])


def assert_same(model: Any, lefts: Sequence[int]) -> None:
    for symbol, (left, right) in enumerate(zip(lefts, [*lefts[1:], WHOLE], strict=True)):
        assert left < right
        assert symbol_at(model, left) == symbol_at(model, right - 1) == symbol


@pytest.mark.parametrize("table", range(0, len(tables.SHAPES) * tables.SCALES, 5))
def test_levels(table: int) -> None:
    for quantiser, lefts in enumerate(decoder.level_models(table)):
        assert_same(levels._level_model(table, quantiser), lefts)


@pytest.mark.parametrize(("total", "count"), [(2, 1), (1, 20), (700, 7), (125 * 20, 20)])
def test_differences_of_scales(total: int, count: int) -> None:
    span = tables.LARGEST_SCALE_INDEX
    weights = [2**20]
    while len(weights) <= span:
        weights.append(weights[-1] * total // (total + count))
    both = [weights[abs(d)] + 16 for d in range(-span, span + 1)]
    assert_same(contexts._differences(total, count), decoder.model(both))


def test_weights() -> None:
    assert_same(contexts.weighted(decoder.SHAPE_WEIGHTS), decoder.model(decoder.SHAPE_WEIGHTS))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 65535), min_size=256, max_size=256).filter(any))
def test_planes(weights: list[int]) -> None:
    assert_same(planes._ans_model(np.array(weights, dtype="<u2")), decoder.model(weights))


@pytest.mark.parametrize("size", [2, 3, 7, 24, 1000, 4097, 2**15, 2**20 - 1, 2**20])
def test_uniform_numbers(size: int) -> None:
    model, share = stream.model.Uniform(size), WHOLE // size
    for number in {0, 1, size // 2, size - 2, size - 1}:
        assert symbol_at(model, number * share) == number
        assert symbol_at(model, (number + 1) * share - 1 if number < size - 1 else WHOLE - 1) == number


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 2**32))
def test_the_coder(symbols: list[int], seed: int) -> None:
    weights = np.random.default_rng(seed).integers(1, 1000, 10).tolist()
    coder = stream.stack.AnsCoder()
    coder.encode_reverse(
        np.array(symbols, dtype=np.int32), stream.model.Categorical(np.array(weights, dtype=float), perfect=False)
    )
    again = decoder.Ans(coder.get_compressed().astype("<u4").tobytes())
    lefts = decoder.model(weights)
    assert [again.symbol(lefts) for _ in symbols] == symbols
    again.finish()
