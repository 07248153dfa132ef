"""Error against bytes of all methods, and its picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import adaptzip
from adaptzip import methods
from adaptzip.errors import OutputError, UsageError
from adaptzip.fitting.requests import Request
from adaptzip.methods import REFERENCE
from adaptzip.reports.bench_results import Bench
from adaptzip.reports.benching import bench_of
from adaptzip.reports.bounds import components, least_bytes
from adaptzip.reports.plots import draw
from adaptzip.reports.yardsticks import yardsticks
from adaptzip.testing.adapters import adapter, relative_error

HEAD = torch.randn(64, generator=torch.Generator().manual_seed(0))
SOURCE = adapter({f"l.{i}": (64, 48, 6) for i in range(6)}, seed=2, extras={"head": HEAD})
FAST = [REFERENCE, "loretta"]


@pytest.fixture(scope="module")
def found() -> Bench:
    return bench_of(SOURCE, methods=FAST, sizes=["3500B", "2500B", "100B"])


def test_every_method_is_measured_at_every_size(found: Bench) -> None:
    assert [(p.method, p.budget) for p in found.points] == [(name, size) for name in FAST for size in (3500, 2500)]
    for point in found.points:
        assert 0.9 * point.budget < point.bytes <= point.budget
        assert 0 < point.relative_error < 1
    for large, small in zip(found.points[::2], found.points[1::2], strict=True):
        assert large.relative_error < small.relative_error


def test_a_size_that_can_not_be_reached_is_said(found: Bench) -> None:
    assert [(row.method, row.budget) for row in found.missed] == [(name, 100) for name in FAST]
    assert all("100 bytes" in row.reason for row in found.missed)


def test_a_point_is_what_compress_gives(found: Bench) -> None:
    compressed = adaptzip.compress(SOURCE, budget="2500B", to=REFERENCE)
    point = next(p for p in found.points if p.method == REFERENCE and p.budget == 2500)
    assert point.relative_error == pytest.approx(relative_error(SOURCE, adaptzip.reconstruct(compressed)), rel=1e-4)


def test_the_bound_counts_the_extras(found: Bench) -> None:
    assert found.extras_bytes > 0
    parts = components(SOURCE)
    for point in found.points:
        assert point.bound == round(least_bytes(parts, point.relative_error)) + found.extras_bytes
    for error, size in found.bound:
        assert size == pytest.approx(least_bytes(parts, error) + found.extras_bytes, rel=0.01)
    assert [row.bytes - found.extras_bytes for row in found.yardsticks] == [row.bytes for row in yardsticks(SOURCE)]


def test_a_missing_basis_is_said_once() -> None:
    needy = [name for name in methods.fittable() if methods.load_fittable(name).default_basis == "base"]
    found = bench_of(SOURCE, methods=needy, sizes=["3500B", "2500B"])
    assert [(row.method, row.budget) for row in found.missed] == [(name, None) for name in needy]
    assert found.bound == ()


def test_sizes_of_both_units_are_not_mixed() -> None:
    with pytest.raises(UsageError, match="some of the sizes count parameters and others bytes"):
        bench_of(SOURCE, methods=FAST, sizes=["500", "3500B"])


def test_sizes_may_count_parameters() -> None:
    found = bench_of(SOURCE, methods=FAST, sizes=[500, "900"])
    assert found.unit == "parameters"
    assert [(point.method, point.budget, point.unit) for point in found.points] == [
        (name, size, "parameters") for name in FAST for size in (900, 500)
    ]
    assert all(point.parameters <= point.budget for point in found.points)


def test_usual_sizes_have_room_for_something() -> None:
    little = adapter([(24, 16, 2)] * 3)
    found = bench_of(little, methods=[REFERENCE])
    assert len(found.points) == 4
    assert found.points[-1].bytes > 0.005 * found.source_bytes
    assert all(point.relative_error < 1 for point in found.points)


def test_progress_goes_from_nothing_to_all() -> None:
    said: list[tuple[str, float, float]] = []
    bench_of(SOURCE, Request(), methods=[REFERENCE], sizes=["3500B", "2500B"], progress=lambda *step: said.append(step))
    assert said[0] == (REFERENCE, 0, 1)
    assert [done for _, done, _ in said] == sorted(done for _, done, _ in said)
    assert {name for name, _, _ in said} == {REFERENCE}


def test_a_zero_adapter_has_no_points() -> None:
    zero = adapter({"m": (8, 8, 2)})
    zero.modules["m"].B.zero_()
    found = bench_of(zero, methods=[REFERENCE], sizes=["50%"])
    assert found.bound == ()


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_it_is_drawn(name: str, start: bytes, found: Bench, tmp_path: Path) -> None:
    draw(found, tmp_path / name, title="an adapter")
    assert (tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(OutputError, match="exists already"):
        draw(found, tmp_path / name)
    draw(found, tmp_path / name, force=True)


def test_the_drawing_names_what_it_shows(found: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    draw(found, tmp_path / "a.svg", title="an adapter")
    text = (tmp_path / "a.svg").read_text()
    for word in [*FAST, "Gaussian bound", "int4", "float16", "an adapter", "KiB"]:
        assert word in text


def test_a_bench_without_points_is_drawn_all_the_same(tmp_path: Path) -> None:
    draw(Bench((), (), (), yardsticks(SOURCE), 1000, 0), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
