"""Quantiser, entropy coder, lossless packing and container: what goes in comes out, and damage is noticed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptzip
from adaptzip.adz.coding import entropy, search, tables, trellis
from adaptzip.adz.coding.classes import choose_classes
from adaptzip.adz.coding.coders import AnyCoder
from adaptzip.adz.coding.decoding import decode_many, too_long
from adaptzip.adz.coding.levels import Levels
from adaptzip.adz.coding.packing import pack_tensors, unpack_tensors
from adaptzip.adz.coding.tables import Class
from adaptzip.adz.container import writer
from adaptzip.adz.container.names import expand, factor
from adaptzip.core.comparing import same_bits
from adaptzip.core.compressed import Buffer, TensorSpec
from adaptzip.core.rates import BIT_WEIGHT
from adaptzip.errors import AdaptzipError, FormatError
from adaptzip.files.dtypes import DTYPES
from adaptzip.testing.adapters import adapter

FREE = len(tables.bits()) - 1
"""The class under which levels cost nothing: plain trellis-coded quantisation."""


def quantise(block: torch.Tensor, classes: list[Class], step: float = 1.0) -> trellis.Quantised:
    index = torch.tensor([FREE if c.raw_bits else c.table for c in classes])
    return search.quantise([block], [index], torch.from_numpy(tables.bits()), step)[0]


def follows_the_trellis(quantised: trellis.Quantised) -> bool:
    """Whether the quantisers are those that the levels lead to."""
    state = 0
    for level, used in zip(quantised.levels.reshape(-1), quantised.quantiser.reshape(-1), strict=True):
        if used != state & 1:
            return False
        state = int(trellis.next_states()[state, level & 1])
    return True


def test_tables_are_whole_and_pinned() -> None:
    frequency = tables.frequencies().astype(int)
    assert (frequency >= 1).all()
    assert (frequency[..., 0] + 2 * frequency[..., 1:-1].sum(-1) + frequency[..., -1] == tables.TOTAL).all()


def test_every_state_has_two_ways_in_and_two_out() -> None:
    states = trellis.next_states()
    assert (np.bincount(states.reshape(-1)) == 2).all()
    assert (states[:, 0] != states[:, 1]).all()


def test_the_search_is_optimal() -> None:
    """Against every sequence of levels of a short lane."""
    x = torch.tensor([[0.4, -1.3, 2.2, 0.9]])
    cost = tables.bits()[FREE].astype(float) * BIT_WEIGHT
    found = quantise(x, [Class(3, tables.SCALES)])
    best = np.inf
    for levels in itertools.product(range(-2, 3), repeat=4):
        state, total = 0, 0.0
        for value, level in zip(x[0].tolist(), levels, strict=True):
            q = state & 1
            total += (value - (2 * level - np.sign(level) * q)) ** 2 + cost[q, abs(level)]
            state = trellis.next_states()[state, level & 1]
        best = min(best, total)
    assert float(((x - torch.from_numpy(found.values())) ** 2).sum()) == pytest.approx(best, rel=1e-5)


def test_the_trellis_beats_a_scalar_quantiser() -> None:
    """At high rate the granular gain of 128 states is about 1.3 dB; uniform rounding has none."""
    x = torch.randn(8, 4096, generator=torch.Generator().manual_seed(0)) * 30
    error = float((x - torch.from_numpy(quantise(x, [Class(3, 40)] * 8).values())).square().mean())
    # The union of both quantisers has spacing 1, each alone 2: at the rate of one of them rounding makes 4 / 12.
    assert 10 * np.log10((4 / 12) / error) > 1.1


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 5),
    width=st.integers(1, 300),
    exponents=st.lists(st.integers(-6, 14), min_size=5, max_size=5),
    outlier=st.booleans(),
    seed=st.integers(0, 99),
)
def test_blocks_come_back_exactly(rows: int, width: int, exponents: list[int], outlier: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator) * 2.0 ** torch.tensor(exponents[:rows])[:, None]
    if outlier:
        x[0, 0] = 1e4
    scales = tables.scale_index(x.double().square().mean(1).sqrt().numpy())
    quantised = quantise(x, [Class(3, int(scale)) for scale in scales])
    assert follows_the_trellis(quantised)
    classes = choose_classes(quantised, scales)
    chunk = entropy.encode(rows, 8, [Levels(quantised, classes)])
    asked = []

    def layout(found: int) -> list[TensorSpec]:
        asked.append(found)
        return [TensorSpec("x", found, width)]

    (block,) = entropy.decode(chunk, 8, layout, "m")
    assert isinstance(block, Levels)
    assert asked == [rows]
    assert block.classes == classes
    assert np.array_equal(block.quantised.levels, quantised.levels)
    assert np.array_equal(block.quantised.quantiser, quantised.quantiser)


@pytest.mark.parametrize("name", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (5, 11)])
def test_packed_tensors_come_back_bit_for_bit(name: str, shape: tuple[int, ...]) -> None:
    dtype = DTYPES[name]
    size = int(np.prod(shape)) * dtype.itemsize
    raw = torch.randint(0, 2 if name == "BOOL" else 256, (size,), dtype=torch.uint8)
    tensor = raw.view(dtype).reshape(shape)
    (again,) = unpack_tensors(pack_tensors([("extra", "t", tensor)]))
    assert same_bits(tensor, again)


def test_float32_that_holds_bfloat16_is_noticed() -> None:
    tensor = torch.randn(64, 64).bfloat16().float()
    packed = pack_tensors([("extra", "t", tensor)])
    assert packed.entries[0].stored == "BF16"
    assert len(packed.payload) < 2 * tensor.numel()
    assert same_bits(unpack_tensors(packed)[0], tensor)


@given(st.sets(st.text(alphabet="ab01.{},\\-[]é", max_size=8), max_size=12))
def test_names_come_back_from_their_patterns(names: set[str]) -> None:
    assert sorted(expand(factor(names), 100)) == sorted(names)


def test_layers_are_written_as_one_pattern() -> None:
    names = [f"layers.{i}.{part}" for i in range(32) for part in ("q_proj", "v_proj")]
    assert factor(names) == ["layers.{0-31}.{q_proj,v_proj}"]
    with pytest.raises(FormatError, match="more than 10 names"):
        expand(["layers.{0-31}"], 10)


def test_a_file_comes_back_and_one_module_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = adapter(
        {"a.q": (48, 32, 4), "a.v": (48, 32, 4), "b": (40, 40, 2)}, extras={"head.weight": torch.randn(3, 5)}
    )
    compressed = adaptzip.compress(source, tmp_path / "x.adz")
    assert (tmp_path / "x.adz").stat().st_size == writer.size(compressed)
    before, after = adaptzip.reconstruct(compressed), adaptzip.reconstruct(tmp_path / "x.adz")
    for name, module in before.modules.items():
        assert same_bits(module.A, after.modules[name].A)
        assert same_bits(module.B, after.modules[name].B)
    assert same_bits(after.extras["head.weight"], source.extras["head.weight"])
    decoded: list[str] = []

    def decode(coder: AnyCoder, chunks: Mapping[str, Buffer], *rest: Any) -> Any:
        decoded.extend(chunks)
        return decode_many(coder, chunks, *rest)

    monkeypatch.setattr("adaptzip.restoring.decoding.decode_many", decode)
    assert compressed.grouped
    writer.write(replace(compressed, grouped=b""), tmp_path / "apart.adz")
    assert list(adaptzip.reconstruct(tmp_path / "apart.adz", modules=["b"]).modules) == ["b"]
    assert decoded == ["b"]


@settings(max_examples=60, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_is_noticed(tmp_path_factory: pytest.TempPathFactory, position: float, bit: int, cut: bool) -> None:
    folder = tmp_path_factory.mktemp("damage")
    adaptzip.compress(adapter([(24, 16, 2)], extras={"b": torch.ones(3)}), folder / "x.adz")
    data = bytearray((folder / "x.adz").read_bytes())
    place = int(position * len(data))
    if cut:
        del data[place:]
    else:
        data[place] ^= 1 << bit
    (folder / "y.adz").write_bytes(data)
    with pytest.raises(AdaptzipError):
        adaptzip.reconstruct(folder / "y.adz")


def test_a_row_is_too_long_where_its_squares_reach_the_limit() -> None:
    values = torch.zeros(3, 1000)
    assert not too_long(values, 1.0)
    assert not too_long(torch.empty(0, 5), 1.0)
    values[1] = -2.0
    assert too_long(values, 4000.0)
    assert not too_long(values, 4001.0)
    values[2, 0] = 100.0  # the largest number is in another row, and alone there
    assert not too_long(values, 10_001.0)
    assert too_long(values, 10_000.0)
