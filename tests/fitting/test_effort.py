"""Efforts: how near to its limit a file is searched for, and whether a start is looked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter
from adaptzip.core.effort import EFFORTS, Effort
from adaptzip.errors import UsageError
from adaptzip.fitting import fits, starting
from adaptzip.fitting.fits import FittedAdapter
from adaptzip.testing.adapters import adapter

FIXTURE = Path(__file__).parent.parent.parent / "fixtures" / "lists-minilm-r16"


def made(effort: Effort, source: Path | Adapter = FIXTURE, **settings: object) -> tuple[int, float]:
    """Bytes and relative error."""
    found = adaptzip.compress(source, effort=effort, **settings)  # type: ignore[arg-type]
    return writer.size(found), found.provenance.relative_error


def test_more_effort_comes_nearer_to_an_error() -> None:
    found = {effort: made(effort, max_error=0.3) for effort in EFFORTS}
    assert 0.3 * 0.98 < found["fast"][1] <= 0.3
    assert 0.3 * 0.998 < found["default"][1] <= 0.3
    assert 0.3 * 0.9998 < found["best"][1] <= 0.3
    sizes = [found[effort][0] for effort in ("best", "default", "fast")]
    assert sizes == sorted(sizes)
    assert sizes[2] <= 1.03 * sizes[1]


@pytest.mark.parametrize("error", [0.99, 0.97, 0.95, 0.9, 0.7, 0.1])
@pytest.mark.parametrize("shapes", [[(192, 160, 8)] * 24, [(64, 48, 4)] * 6 + [(256, 192, 12)] * 2, [(32, 24, 4)] * 3])
def test_fast_is_little_larger_and_best_is_never_larger(shapes: list[tuple[int, int, int]], error: float) -> None:
    """Also where bytes fall steeply with the error; a few bytes are a large share of a file of a hundred."""
    source = adapter(shapes)
    found = {effort: made(effort, source, max_error=error) for effort in EFFORTS}
    assert all(reached <= error for _, reached in found.values())
    assert found["fast"][0] <= max(1.03 * found["default"][0], found["default"][0] + 24)
    assert found["best"][0] <= found["default"][0]


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("error", [0.96, 0.975, 0.98, 0.99, 0.999])
def test_an_error_near_1_still_keeps_something(effort: Effort, error: float) -> None:
    """An update of nothing has an error of 1, which is close to the limit and beyond it."""
    for source in (FIXTURE, adapter([(32, 24, 4)] * 3)):
        assert made(effort, source, max_error=error)[1] <= error


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_larger_error_takes_no_more_bytes(effort: Effort) -> None:
    """Modules alike vanish at one step; few of them at a step of their own still make a smaller file."""
    one = adapter([(64, 48, 4)]).modules["m.0"]
    source = Adapter({f"m.{i}": one for i in range(30)})
    sizes = [made(effort, source, max_error=error)[0] for error in (0.9, 0.95, 0.97, 0.98, 0.99, 0.999)]
    assert all(after <= before for before, after in zip(sizes, sizes[1:], strict=False))
    assert sizes[-1] < 0.5 * sizes[0]


def test_more_effort_comes_nearer_to_a_budget() -> None:
    shares: dict[Effort, float] = {"fast": 0.97, "default": 0.99, "best": 0.997}
    for effort, share in shares.items():
        size, _ = made(effort, budget="40000B")
        assert 40000 * share < size <= 40000


@pytest.mark.starts
def test_fast_looks_for_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(starting, "find_start", lambda *_: looked.append(_[2]))
    adaptzip.compress(adapter([(48, 32, 4)]), max_error=0.3, effort="fast")
    assert not looked
    adaptzip.compress(adapter([(48, 32, 4)]), max_error=0.3)
    adaptzip.compress(adapter([(48, 32, 4)]), max_error=0.3, effort="best")
    assert looked[0] < looked[1]


@pytest.mark.starts
def test_best_looks_far_for_a_start_only_where_one_is_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(starting, "find_start", lambda *_: looked.append(_[2]))
    for settings in ({"to": "svd"}, {"to": "loretta"}, {"lossless": True}):
        adaptzip.compress(adapter([(48, 32, 4)]), effort="best", **settings)
    assert looked[1] < looked[0] == looked[2]


def test_an_unknown_effort() -> None:
    with pytest.raises(UsageError, match="effort 'slow' is unknown") as caught:
        adaptzip.compress(adapter([(8, 8, 2)]), effort="slow")  # type: ignore[arg-type]
    assert caught.value.hint == "efforts: fast, default, best"


def test_fast_searches_a_part_of_an_adapter_and_codes_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    source, coded = adapter([(48, 32, 4)] * 40), list[int]()
    monkeypatch.setattr(fits, "SAMPLE_NUMBERS", 4 * 8 * 320)
    code = FittedAdapter.code

    def counted(self: FittedAdapter, step: float, ranks: Mapping[str, int], names: Sequence[str], *more: Any) -> Any:
        coded.append(len(names))
        return code(self, step, ranks, names, *more)

    monkeypatch.setattr(FittedAdapter, "code", counted)
    size, error = made("fast", source, max_error=0.2)
    assert error <= 0.2
    assert coded[0] == 8
    assert coded.count(40) == 1
    coded.clear()
    assert size <= 1.03 * made("default", source, max_error=0.2)[0]
    assert set(coded) == {40}  # as many as are kept are all coded at every step
