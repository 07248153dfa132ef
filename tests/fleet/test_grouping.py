"""Which adapters are put together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adaptzip.errors import UsageError
from adaptzip.fleet import grouping, scanning
from adaptzip.fleet.engines import fleet_engine
from adaptzip.fleet.runs import Plan, Run
from adaptzip.fleet.sources import sources_of
from tests.cases.fleets import make_fleet

SETTINGS = {"groups": "auto", "hold_out": 0.2, "base": None}


def divided(folder: Path, store: Path, **settings: object) -> Run:
    run = Run.of(str(store), Plan("basis", sources_of([folder]), {**SETTINGS, **settings}))
    engine = fleet_engine()
    for stage in (scanning.stage, grouping.stage):
        engine.complete(run, stage(run))
    return run


def families(run: Run, count: int) -> list[set[int]]:
    """Which families' adapters each group has, by their numbers modulo `count`."""
    return [{place % count for place in group.everyone} for group in grouping.groups_of(run)]


def test_families_are_told_apart(tmp_path: Path) -> None:
    make_fleet(tmp_path / "fleet", 32, families=2, mean=0.0)
    run = divided(tmp_path / "fleet", tmp_path / "store")
    assert sorted(map(sorted, families(run, 2))) == [[0], [1]]
    assert [len(group.held_out) for group in grouping.groups_of(run)] == [3, 3]


def test_one_family_stays_together(tmp_path: Path) -> None:
    make_fleet(tmp_path / "fleet", 20)
    run = divided(tmp_path / "fleet", tmp_path / "store")
    (group,) = grouping.groups_of(run)
    assert group.everyone == tuple(range(20))
    assert group.base == "some/base"
    assert len(group.held_out) == 4
    assert not set(group.members) & set(group.held_out)


def test_other_bases_and_few_adapters_share_nothing(tmp_path: Path) -> None:
    make_fleet(tmp_path / "fleet" / "x", 5)
    make_fleet(tmp_path / "fleet" / "y", 4, base="other/base")
    make_fleet(tmp_path / "fleet" / "z", 3, base="third/base")
    run = divided(tmp_path / "fleet", tmp_path / "store", groups="1")
    assert [(group.base, len(group.everyone)) for group in grouping.groups_of(run)] == [
        ("some/base", 5),
        ("other/base", 4),
    ]


def test_what_cannot_be_read_is_told_and_left_out(tmp_path: Path) -> None:
    folders = make_fleet(tmp_path / "fleet", 6)
    (folders[2] / "adapter_model.safetensors").write_bytes(b"nothing")
    run = divided(tmp_path / "fleet", tmp_path / "store")
    (group,) = grouping.groups_of(run)
    assert 2 not in group.everyone
    assert list(run.result(grouping.STAGE)["failed"]) == ["2"]


def test_sketches_tell_how_far_updates_overlap(tmp_path: Path) -> None:
    """Whatever factors an update is written in."""
    make_fleet(tmp_path / "fleet", 2, mean=0.9)
    run = divided(tmp_path / "fleet", tmp_path / "store")
    alike = [scanning.sketch_of(row) for row in scanning.rows_of(run)]
    units = [sketch / np.linalg.norm(sketch) for sketch in alike]
    assert units[0] @ units[1] > 0.9


def test_a_part_is_held_out() -> None:
    members, held_out = grouping.parted(range(10), 0.2)
    assert held_out == [2, 7]
    assert sorted((*members, *held_out)) == list(range(10))
    assert grouping.parted(range(3), 0.1) == ([0, 1], [2])
    assert grouping.parted(range(3), 0.0) == ([0, 1, 2], [])


def test_numbers_of_groups_are_checked() -> None:
    grouping.check_groups("auto")
    grouping.check_groups("3")
    for wrong in ("0", "many", "-1"):
        with pytest.raises(UsageError, match="expected 'auto' or a number"):
            grouping.check_groups(wrong)


def test_what_has_nothing_in_common_is_no_group() -> None:
    """Of many centres one is always near by chance, which makes no group."""
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((200, 84))
    assert grouping.best_count(rows / np.linalg.norm(rows, axis=1, keepdims=True)) == 1
    families = rows + 3 * np.repeat(draw.standard_normal((4, 84)), 50, axis=0)
    mixed = families[draw.permutation(200)]
    assert grouping.best_count(mixed / np.linalg.norm(mixed, axis=1, keepdims=True)) == 4
