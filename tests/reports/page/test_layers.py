"""Modules as cells: every module stands in one cell of one grid, whatever it is called."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from adaptzip.reports.page.layers import grids

_PARTS = st.sampled_from(["a", "layer", "0", "1", "2", "17", "*", "q_0", "\0", "b.1", ""])
_NAMES = st.lists(_PARTS, min_size=1, max_size=6).map(".".join)


def test_layers_stand_across_and_kinds_down() -> None:
    names = [f"bert.layer.{layer}.{kind}" for layer in range(12) for kind in ("q", "mlp.0.up")]
    (grid,) = grids(names)
    assert (grid.stem, grid.rows) == ("bert.layer", ("q", "mlp.0.up"))
    assert grid.columns == tuple(map(str, range(12)))
    assert grid.cells[1, 3] == ("bert.layer.3.mlp.0.up",)


def test_numbers_that_vary_within_a_kind_stand_across() -> None:
    names = ["down.0.attn.0.q", "down.0.attn.1.q", "down.1.attn.0.q", "down.0.res.0.conv", "down.1.res.0.conv"]
    (grid,) = grids(names)
    assert grid.rows == ("attn.*.q", "res.0.conv")
    assert grid.columns == ("0", "0.0", "0.1", "1", "1.0")


def test_many_columns_are_put_together() -> None:
    (grid,) = grids([f"layers.{layer}.experts.{expert}.up" for layer in range(4) for expert in range(32)])
    assert grid.columns == ("0", "1", "2", "3")
    assert {len(names) for names in grid.cells.values()} == {32}
    (grid,) = grids([f"m.{number}" for number in range(1000)])
    assert grid.columns[:2] == ("0-20", "21-41")
    assert len(grid.columns) == 48


def test_many_kinds_are_told_by_their_number() -> None:
    (grid,) = grids([f"kind{letter}" for letter in range(70)])
    assert len(grid.rows) == 60
    assert grid.more == 10


@given(st.sets(_NAMES, max_size=40))
def test_every_module_stands_in_one_cell(names: set[str]) -> None:
    found = grids(sorted(names))
    placed = Counter(name for grid in found for cell in grid.cells.values() for name in cell)
    assert placed == Counter(names)
    for grid in found:
        assert all(row < len(grid.rows) and column < len(grid.columns) for row, column in grid.cells)
