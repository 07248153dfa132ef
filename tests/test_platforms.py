"""The table of platforms: which wheels count, and that the page is of the versions that are pinned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from checks import platforms
from checks.wheels.bounds import pins

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("wheel", "found"),
    [
        ("a-1.0-py3-none-any.whl", {*platforms.PLATFORMS}),
        ("a-1.0-cp311-cp311-manylinux_2_28_x86_64.whl", {"Linux x86_64"}),
        ("a-1.0-cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64.whl", {"Linux aarch64"}),
        ("a-1.0-cp39-abi3-musllinux_1_2_x86_64.whl", {"musl x86_64"}),
        ("a-1.0-cp311-none-macosx_14_0_arm64.whl", {"macOS arm64"}),
        ("a-1.0-cp311-cp311-macosx_15_0_arm64.whl", set()),
        ("a-1.0-cp311-cp311-macosx_10_12_universal2.whl", {"macOS arm64", "macOS x86_64"}),
        ("a-1.0-cp311-cp311-win_amd64.whl", {"Windows x86_64"}),
        ("a-1.0-cp312-cp312-win_amd64.whl", set()),
    ],
)
def test_where_a_wheel_installs_with_python_3_11(wheel: str, found: set[str]) -> None:
    assert {name for name in platforms.PLATFORMS if platforms.runs_on(wheel, name, 11)} == found


def test_a_wheel_of_the_stable_interface_serves_newer_pythons() -> None:
    assert platforms.runs_on("a-1.0-cp39-abi3-win_arm64.whl", "Windows arm64", 14)
    assert not platforms.runs_on("a-1.0-cp314-cp314t-win_arm64.whl", "Windows arm64", 14)


@pytest.mark.parametrize(("minors", "cell"), [([], "none"), ([12], "3.12"), ([11, 12, 13], "3.11 to 3.13")])
def test_spans_are_written_out(minors: list[int], cell: str) -> None:
    assert platforms.span(minors) == cell


def test_tables_are_put_between_their_marks() -> None:
    page = f"before\n{platforms.START}old\n{platforms.END}after\n"
    made = f"{platforms.START}new\n{platforms.END}"
    assert platforms.with_tables(page, made) == f"before\n{made}after\n"


def test_the_page_is_of_the_versions_that_are_pinned() -> None:
    """Fails where constraints.txt moved on: run python -m checks.platforms."""
    pinned = pins((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    made = platforms.PAGE.read_text(encoding="utf-8").partition(platforms.START)[2].partition(platforms.END)[0]
    rows = re.findall(r"^\| ([a-z-]+) (\d[\w.]*) \|", made, flags=re.MULTILINE)
    assert len(rows) >= 9
    assert {name: str(pinned[name]) for name, _ in rows} == dict(rows)
