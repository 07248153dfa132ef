"""Budgets where extras dominate: what is chosen is how to use the room that is left, not a share of the whole file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptzip
from adaptzip import Adapter, LoraFactors, methods
from adaptzip.adz.container import writer
from adaptzip.core.budget import Budget
from adaptzip.core.method import FitContext
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.errors import AdaptzipWarning, CheckFailedError, NoRoomError
from adaptzip.fitting.assembly import assemble
from adaptzip.fitting.candidates import candidates, fit_candidate
from adaptzip.fitting.choosing import plan
from adaptzip.fitting.compression import make
from adaptzip.fitting.fit_adapter import fit_adapter
from adaptzip.fitting.fits import FittedAdapter
from adaptzip.fitting.job_limits import control_of
from adaptzip.fitting.requests import Request
from adaptzip.fitting.running import run
from adaptzip.fitting.small_rooms import INDEX_BYTES, cheapest, expected, filled, promising
from adaptzip.reports.benching import SHARES, bench_of
from adaptzip.testing.adapters import adapter, relative_error
from adaptzip.testing.trials import compress, job_of, needs_file
from tests.cases import tiny_peft
from tests.cases.any_method import EVERY
from tests.cases.plugging import installed
from tests.cases.teachers import classifier, train

SOURCE = adapter({f"l.{i}": (56, 40, 6) for i in range(6)}, seed=5)
UPDATE = sum(4 * module.parameters for module in SOURCE.modules.values())
"""Bytes of the factors as they are."""
GRAIN = 8
"""Bytes that a header grows by."""


@pytest.fixture(autouse=True, scope="module")
def _outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("toys")):
        yield


@pytest.fixture(scope="module")
def basis_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("basis") / "source.basis"


@cache
def headed(size: int) -> Adapter:
    """SOURCE with a head of about `size` bytes that nothing makes smaller."""
    if not size:
        return SOURCE
    generator = torch.Generator().manual_seed(size)
    return replace(SOURCE, extras={"head": torch.randn(max(1, size // 4), generator=generator)})


def floor(source: Adapter, name: str = "svd", **options: Any) -> int:
    """Bytes of the file without any module, as the refusal of one byte says it."""
    with pytest.raises(CheckFailedError, match="1 bytes cannot be reached") as caught:
        compress(name, source, budget="1B", **options)
    return int(str(caught.value).split()[-1])


@cache
def _plain_floor() -> int:
    return floor(SOURCE)


def within(source: Adapter, size: int, name: str = "svd", **options: Any) -> tuple[int, float, list[str]]:
    """Bytes, relative error and warnings of a file within `size`; the error is measured on what is decoded."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AdaptzipWarning)
        compressed = compress(name, source, budget=f"{size}B", **options)
    basis = {"basis": options["basis"]} if "basis" in options else {}
    error = relative_error(source, adaptzip.reconstruct(compressed, **basis))
    return writer.size(compressed), error, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("room", [1500, 2900])
def test_a_head_of_half_a_megabyte_leaves_the_room_what_it_is(room: int) -> None:
    source = headed(493_962)
    size, error, messages = within(source, floor(source) + room)
    _, alone, _ = within(SOURCE, _plain_floor() + room)
    assert size > floor(source) + 0.98 * room
    assert error == pytest.approx(alone, rel=0.02)
    assert error < 0.6
    assert not messages


@settings(max_examples=8, deadline=None)
@given(st.floats(0, 100), st.integers(60, 4000))
def test_the_error_depends_on_the_room_and_not_on_the_head(share: float, room: int) -> None:
    source = headed(round(share * UPDATE))
    fixed, limit = floor(source), floor(source) + room
    size, error, messages = within(source, limit)
    assert fixed < size <= limit
    if not messages:
        assert limit - size <= max(0.01 * room, GRAIN)
    # A header that is a grain longer or shorter is as much room.
    best, worst = (within(SOURCE, _plain_floor() + room + more)[1] for more in (3 * GRAIN, -3 * GRAIN))
    assert 0.98 * best < error < 1.02 * worst


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("head", [0, 300_000])
def test_the_smallest_file_is_made_and_named(name: str, head: int, basis_file: Path) -> None:
    source = headed(head)
    options = needs_file(name, source, basis_file)
    fixed = floor(source, name, **options)
    with pytest.raises(NoRoomError, match=f"{fixed} bytes leave no room for any module|{fixed} bytes cannot") as caught:
        compress(name, source, budget=f"{fixed}B", **options)
    least = caught.value.least
    assert least is not None
    assert f"allow at least {least}B" in str(caught.value.hint)
    size, error, _ = within(source, least, name, **options)
    assert size <= least
    assert error < 1


@pytest.mark.parametrize("name", EVERY)
def test_every_method_uses_its_room_beside_a_large_head(name: str, basis_file: Path) -> None:
    source, found = headed(300_000), []
    for each in (SOURCE, source):
        options = needs_file(name, source, basis_file)
        fixed = floor(each, name, **options)
        size, error, messages = within(each, fixed + 1000, name, **options)
        assert size <= fixed + 1000
        assert fixed + 1000 - size <= 10 or "of its part of the budget" in messages[0]
        found.append(error)
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_small_rooms_of_adapters_too_large_to_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    source = headed(100_000)
    fixed = floor(source)
    plain = [within(source, fixed + room)[1] for room in (60, 200, 900)]
    monkeypatch.setattr("adaptzip.fitting.fit_adapter.KEPT_NUMBERS", 0)
    monkeypatch.setattr("adaptzip.fitting.fits.SAMPLE_NUMBERS", 1000)
    assert floor(source) == fixed
    for room, error in zip((60, 200, 900), plain, strict=True):
        size, sampled, _ = within(source, fixed + room)
        assert size <= fixed + room
        assert sampled < max(1.1 * error, 0.999)


def test_of_modules_of_like_strength_some_are_kept() -> None:
    """At one step all of them would vanish together."""
    seeded = torch.Generator().manual_seed(5)
    one = LoraFactors(torch.randn(1, 64, generator=seeded), torch.randn(64, 1, generator=seeded))
    source = Adapter({f"m.{i:02}": one for i in range(20)}, {"head": torch.randn(5000, generator=seeded)})
    fixed = floor(source)
    kept = []
    for room in (40, 120, 300):
        compressed = adaptzip.compress(source, budget=f"{fixed + room}B", device="cpu")
        assert writer.size(compressed) <= fixed + room
        kept.append(sum(len(chunk) > 0 for chunk in compressed.chunks))
    assert 1 <= kept[0] < kept[1] < kept[2] < 20


def test_a_narrow_module_is_kept_where_a_stronger_wide_one_does_not_fit() -> None:
    modules = {
        "narrow": LoraFactors(torch.ones(1, 4), torch.ones(4, 1)),
        "wide": LoraFactors(0.055 * torch.randn(1, 2000), torch.randn(2000, 1)),
    }
    source = Adapter(modules)
    fixed = floor(source)
    compressed = adaptzip.compress(source, budget=f"{fixed + 24}B", device="cpu")
    assert [len(chunk) > 0 for chunk in compressed.chunks] == [True, False]
    assert compressed.provenance.relative_error < 1


def test_extras_that_are_small_already_are_not_told_to_shrink() -> None:
    source = headed(100_000)
    for extras, told in (("lossless", True), ("int8", False)):
        with pytest.raises(NoRoomError) as caught:
            compress("svd", source, budget=f"{floor(source, extras=extras)}B", extras=extras)
        assert ("`extras='int8'`" in str(caught.value.hint)) == told
    # With so little allowed the smaller extras do not help either.
    with pytest.raises(NoRoomError) as caught:
        compress("svd", source, budget="500B")
    assert "`extras='int8'`" not in str(caught.value.hint)


@pytest.mark.parametrize("asked", ["bytes", "share", "times"])
def test_plan_auto_and_bench_see_the_same_room(asked: str) -> None:
    source, methods = headed(300_000), ["svd", "vblora", "loretta"]
    fixed, room = floor(source), 1200
    whole = UPDATE + source.extras["head"].nbytes
    limit = fixed + room
    budget = {"bytes": f"{limit}B", "share": f"{100 * limit / whole:.6f}%", "times": f"{whole / limit:.7f}x"}[asked]
    report = plan(source, budget=budget, methods=methods, device="cpu")
    plain = plan(SOURCE, budget=f"{_plain_floor() + room}B", methods=methods, device="cpu")
    assert not report.refusals
    assert report.best.method == plain.best.method
    assert report.best.relative_error == pytest.approx(plain.best.relative_error, rel=0.05)
    assert all(row.bytes <= limit for row in report.forecasts)
    made = make(source, Request(to="auto", budget=Budget.parse(budget), device="cpu"))
    assert made.compressed.method == report.best.method
    assert made.error == pytest.approx(report.best.relative_error, rel=0.1)
    assert limit - 20 <= made.size <= limit
    found = bench_of(source, Request(device="cpu"), methods=methods, sizes=[budget])
    assert [point.method for point in found.points] == methods
    assert found.points[0].relative_error == pytest.approx(made.error, rel=0.02)


@pytest.mark.parametrize("room", [60, 120, 400])
def test_a_plan_of_a_small_room_is_near_what_comes(room: int) -> None:
    source = headed(100_000)
    size = floor(source) + room
    planned = plan(source, budget=f"{size}B", methods=["svd"], device="cpu").best
    _, error, _ = within(source, size)
    assert planned.bytes <= size
    assert planned.relative_error == pytest.approx(error, rel=0.1)


def test_where_no_method_fits_the_least_that_one_needs_is_told() -> None:
    source = headed(100_000)
    report = plan(source, budget="50kB", device="cpu")
    assert not report.forecasts
    least = int(re.findall(r"\d+", report.hint)[0])
    with pytest.raises(CheckFailedError, match="no method can do it") as caught:
        make(source, Request(to="auto", budget=Budget.parse("50kB"), device="cpu"))
    assert caught.value.hint == report.hint
    assert make(source, Request(to="auto", budget=Budget.parse(f"{least}B"), device="cpu")).size <= least


def test_bench_tries_shares_of_the_update_beside_the_extras() -> None:
    source = headed(1_000_000)
    large = replace(source, modules={n: LoraFactors(m.A.repeat(1, 40), m.B) for n, m in source.modules.items()})
    found = bench_of(large, Request(device="cpu"), methods=["svd"])
    update = sum(4 * module.parameters for module in large.modules.values())
    assert [point.budget for point in found.points] == [
        int(found.extras_bytes + share * update) for share in SHARES[: len(found.points)]
    ]
    assert len(found.points) >= 3


def test_distilling_fills_the_room_beside_a_large_head(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    saved = {n: t for n, t in tiny_peft.bert().state_dict().items() if "embeddings" in n or "intermediate" in n}
    teacher = replace(teacher, extras={**teacher.extras, **saved})
    with pytest.raises(NoRoomError, match="700 bytes cannot be reached") as caught:
        train(base, teacher, "svd", "700B")
    least = caught.value.least
    assert least is not None
    for room in (0, 800):
        file = tmp_path / f"{room}.adz"
        train(base, teacher, "svd", f"{least + room}B", output=file)
        # What is told of the training has fewer digits than there is room for.
        assert least + room - 80 <= file.stat().st_size <= least + room


def test_weighted_errors_keep_to_the_size_as_well() -> None:
    """The plain error, which is measured last, may have more digits than the one that was minimised."""
    job = job_of("svd", SOURCE, {"l.0": Sensitivity(weight=2.0)}, budget="1500B")
    fitted = fit_candidate(job, candidates(job)[0])
    coded = fitted.code(1.0, fitted.ranks(1.0), list(fitted.profiles))
    foreseen = control_of(job, fitted)[0].steps.total_size(1.0, coded, 0.1)
    assert foreseen == writer.size(assemble(job, fitted, 1.0, coded, 0.000123456))
    assert foreseen > writer.size(assemble(job, fitted, 1.0, coded, 0.1))
    assert writer.size(run(job).compressed) <= 1500


def test_errors_that_no_one_asked_for_are_not_named() -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = {f"{name}.{i}": shape for i in range(2) for name, shape in (("q", (32, 32)), ("d", (32, 80)))}

    def factors(out: int, width: int) -> LoraFactors:
        A = (torch.rand(4, width, generator=generator) - 0.5) * 2 / width**0.5
        A += 0.2 * torch.randn(4, width, generator=generator)
        return LoraFactors(A, 0.2 * torch.randn(out, 4, generator=generator), 2.0)

    source = Adapter({name: factors(*shape) for name, shape in shapes.items()})
    fixed = {"vectors": 8, "length": 16}
    with pytest.raises(CheckFailedError, match=r"relative error 0\.8 cannot be reached") as caught:
        compress("vblora", source, max_error=0.8, **fixed)
    least = float(re.findall(r"at least (\S+)", str(caught.value))[0])
    assert 0.8 < least < 1
    # What is said to be left is what the same settings leave.
    made = compress("vblora", source, budget="5k", **fixed)
    assert made.provenance.relative_error == pytest.approx(least, rel=0.1)


def test_a_budget_in_parameters_gives_the_best_of_its_settings() -> None:
    """Nobody asked for an error, so that none can be missed."""
    source = adapter({f"l.{i}": (32, 32, 4) for i in range(4)}, seed=3)
    made = compress("vblora", source, budget="300", vectors=1)
    assert made.provenance.parameters <= 300
    assert relative_error(source, adaptzip.reconstruct(made)) < 1


@pytest.mark.parametrize("name", ["svd", "loretta", "vblora"])
def test_too_few_parameters_are_told_the_least(name: str) -> None:
    with pytest.raises(CheckFailedError, match="3 parameters leave no room") as caught:
        compress(name, SOURCE, budget="3")
    least = int(re.findall(r"at least (\d+)", str(caught.value.hint))[0])
    assert compress(name, SOURCE, budget=str(least)).provenance.parameters <= least


SMALL = adapter({"a": (40, 24, 4), "b": (30, 20, 3), "c": (10, 10, 2), "d": (10, 10, 2)}, seed=4)


def svd() -> FittedAdapter:
    method = methods.load_fittable("svd")
    return fit_adapter(method, method.config_type(), SMALL, FitContext())


def test_of_each_size_the_best_module_is_tried_the_smallest_first() -> None:
    fitted = svd()
    best = max(("c", "d"), key=lambda name: fitted.profiles[name].scores[0])
    assert cheapest(fitted, None) == [{best: 1}, {"b": 1}, {"a": 1}]
    other = "d" if best == "c" else "c"
    assert cheapest(fitted, {other: 1, "a": 3, "b": 0}) == [{other: 1}, {"a": 1}]
    assert cheapest(fitted, {}) == []


def test_sets_grow_by_what_saves_most_for_its_numbers() -> None:
    fitted = svd()
    scores = sorted(((s, name) for name, p in fitted.profiles.items() for s in p.scores), reverse=True)
    found = promising(fitted, None, 1e6, (1e-3, 1.0))
    assert [few.error for few in found] == sorted(few.error for few in found)
    sets = [few.ranks for few in found]
    for count in (1, 2, 3):
        grown: dict[str, int] = {}
        for _, name in scores[:count]:
            grown[name] = grown.get(name, 0) + 1
        assert grown in sets
    assert {name: len(profile.scores) for name, profile in fitted.profiles.items()} in sets


def test_caps_hold_for_small_sets_too() -> None:
    caps = {"a": 1, "b": 0, "c": 2}
    for few in promising(svd(), caps, 1e6, (1e-3, 1.0)):
        assert all(rank <= caps.get(name, 0) for name, rank in few.ranks.items())


def test_what_is_expected_is_of_the_whole_update() -> None:
    fitted = svd()
    ranks: dict[str, int] = {"a": 2}
    size, error = expected(fitted, 0.02, ranks)
    bits, own = fitted.method.predict(fitted.profiles["a"], 2, 0.02)
    assert size == pytest.approx(bits / 8 + INDEX_BYTES)
    assert error == pytest.approx(own + sum(fitted.profiles[n].energy for n in "bcd"))
    assert expected(fitted, 0.02, {})[0] == 0
    assert expected(fitted, 0.02, {})[1] == pytest.approx(fitted.energy)


def test_a_set_fills_its_room() -> None:
    fitted = svd()
    few = filled(fitted, {"a": 2, "b": 1}, 120.0, (1e-6, 10.0))
    assert few.size == pytest.approx(120, rel=1e-3)
    assert (few.size, few.error) == expected(fitted, few.step, few.ranks)
