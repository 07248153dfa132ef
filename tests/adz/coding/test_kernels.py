"""Kernels and what is interpreted give the same bits, for any number of workers, and with and without numba."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from constriction import stream
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptzip.adz.coding import classes, levels, search, tables
from adaptzip.adz.coding.levels import Levels
from adaptzip.adz.coding.modules import _trellis, rounded
from adaptzip.adz.coding.tables import NOTHING, Class
from adaptzip.core import compiled
from adaptzip.core.rates import BIT_WEIGHT
from adaptzip.core.workers import on_one_core
from adaptzip.errors import FormatError

WEIGHTED = torch.from_numpy(tables.bits()) * BIT_WEIGHT
ROWS = st.lists(st.floats(-4, 17), min_size=1, max_size=5)
"""Deviations of rows, as powers of 2."""
DECODERS = (levels.decode_levels, levels.decode_interpreted)


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_WORTHWHILE", 0)


def rows_of(exponents: list[float], width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(exponents), width, generator=generator) * 2.0 ** torch.tensor(exponents)[:, None]


@settings(max_examples=30, deadline=None)
@given(exponents=ROWS, width=st.integers(0, 90), ties=st.booleans(), seed=st.integers(0, 2**32))
def test_the_search(exponents: list[float], width: int, ties: bool, seed: int) -> None:
    tensors = [rows_of(exponents, width, seed), rows_of(exponents[:1], 7, seed), rows_of(exponents[:1], 7, seed + 1)]
    if ties:
        tensors = [(2 * x).round() / 2 for x in tensors]
    rows = np.random.default_rng(seed)
    index = [torch.from_numpy(rows.integers(0, len(WEIGHTED), len(x))) for x in tensors]
    found = search.compiled_search(tensors, index, WEIGHTED)
    for one, other in zip(found, search.interpreted_search(tensors, index, WEIGHTED), strict=True):
        assert np.array_equal(one.levels, other.levels)
        assert np.array_equal(one.quantiser, other.quantiser)


@settings(max_examples=40, deadline=None)
@given(exponents=ROWS, width=st.integers(1, 90), outlier=st.sampled_from([0, 2**19]), seed=st.integers(0, 2**32))
def test_classes_and_levels(exponents: list[float], width: int, outlier: int, seed: int) -> None:
    x = rows_of(exponents, width, seed)
    x[-1] = 0
    x[0, 0] += outlier
    (quantised,), (scales,) = _trellis([x], 1.0)
    chosen = classes.choose_classes(quantised, scales)
    assert chosen == classes.choose_interpreted(quantised, scales)
    block = Levels(quantised, chosen)
    before = np.random.default_rng(seed).integers(0, 99, seed % 5).astype(np.int32)
    coders = [stream.stack.AnsCoder(), stream.stack.AnsCoder()]
    for coder in coders:
        levels.encode_uniform(coder, before, 99)
    levels.encode_interpreted(coders[1], block)
    words = levels.encode_levels(coders[0], block).get_compressed()
    assert np.array_equal(words, coders[1].get_compressed())
    for decode in DECODERS:
        coder = stream.stack.AnsCoder(words)
        again = decode(coder, len(exponents), width, chosen)
        assert np.array_equal(again.levels, quantised.levels)
        assert np.array_equal(again.quantiser, quantised.quantiser)
        assert np.array_equal(levels.decode_uniform(coder, len(before), 99), before)
        assert coder.is_empty()


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=40), st.integers(0, 5), st.integers(0, tables.LARGEST_SCALE_INDEX))
def test_noise(noise: bytes, shape: int, scale: int) -> None:
    words = np.frombuffer(noise + bytes(-len(noise) % 4) + b"\1\0\0\0", dtype="<u4").astype(np.uint32)
    found: list[Any] = []
    for decode in DECODERS:
        coder = stream.stack.AnsCoder(words)
        try:
            again = decode(coder, 3, 9, (Class(shape, scale), Class(NOTHING, 0), Class(shape, scale)))
            found.append((again.levels.tolist(), again.quantiser.tolist(), coder.pos()))
        except FormatError as error:
            found.append(str(error))
    assert found[0] == found[1]


def test_any_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_TOGETHER", 500)
    tensors = [rows_of([0.0, 1.0], width, width) for width in range(10, 400, 30)]
    threads, found = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            with on_one_core():
                found.append(rounded(tensors, 0.5))
        finally:
            torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_without_numba(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> None:
    x = rows_of([0.0, 3.0], 50, 0)
    (compiled_,) = rounded([x], 0.5)
    request.getfixturevalue("without_numba")
    with caplog.at_level(logging.INFO, "adaptzip"):
        (interpreted,) = rounded([x], 0.5)
        rounded([x], 0.5)
    assert torch.equal(compiled_, interpreted)
    assert [record.message for record in caplog.records] == [
        "numba is not installed, or not for this numpy: coding takes several times as long"
    ]


CODE = """
import logging, sys, numba, torch
logging.basicConfig(level=logging.INFO, format="%(message)s")
from adaptzip.adz.coding.modules import rounded
if sys.argv[1:]:
    numba.core.caching.CacheImpl._locator_classes = []
print(float(rounded([torch.arange(12.0).reshape(2, 6)], 0.5)[0].sum()))
"""


@pytest.mark.slow
def test_compiling_is_told_once_and_kept_on_disk_if_there_is_a_place(tmp_path: Path) -> None:
    told = "compiling for this processor, which takes some seconds and is done once"
    for arguments, expected in (([], [told]), ([], []), (["nowhere"], [told])):
        made = subprocess.run(
            [sys.executable, "-c", CODE, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        )
        assert float(made.stdout) == pytest.approx(66.0, abs=6)
        assert made.stderr.splitlines() == expected
