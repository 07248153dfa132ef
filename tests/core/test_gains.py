"""Gains: modules that matter more are multiplied before they are quantised, and come back with smaller errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import log2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import adaptzip
from adaptzip import Adapter, methods
from adaptzip.adz.container import writer
from adaptzip.core.gains import LIMIT, STEPS_PER_OCTAVE, divisor, gain_index
from adaptzip.core.method import FitContext
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.fitting.candidates import bare_size
from adaptzip.fitting.fit_adapter import fit_adapter
from adaptzip.fitting.running import Made, run
from adaptzip.reports.verifying import verify
from adaptzip.testing.adapters import adapter, dense, relative_error, same_factors
from adaptzip.testing.trials import fit, job_of, needs_file, stored_numbers
from tests.cases.any_method import EVERY
from tests.cases.plugging import installed

SOURCE = adapter({"heavy": (40, 28, 5), "light": (40, 28, 5), "plain": (28, 40, 4)}, seed=6)
WEIGHTS = {"heavy": Sensitivity(64.0), "light": Sensitivity(1 / 64)}


@pytest.fixture(autouse=True, scope="module")
def _outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("toys")):
        yield


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-9, 1e9))
def test_an_index_is_the_nearest(gain: float) -> None:
    index = gain_index(gain)
    assert abs(log2(gain) * STEPS_PER_OCTAVE - index) <= 0.5
    assert divisor(index) * gain == pytest.approx(1, rel=0.1)


def test_divisors_are_float32_numbers_and_exact_at_octaves() -> None:
    for index in range(-LIMIT, LIMIT + 1):
        assert float(np.float32(divisor(index))) == divisor(index)
        assert divisor(index) == pytest.approx(2 ** (-index / 4), rel=1e-7)
    assert [divisor(index) for index in (-8, -4, 0, 4, 8)] == [4.0, 2.0, 1.0, 0.5, 0.25]


def test_gains_beyond_the_range_are_cut() -> None:
    assert gain_index(1e300) == LIMIT
    assert gain_index(1e-300) == -LIMIT


def test_a_gain_multiplies_the_energy_and_nothing_else() -> None:
    method = methods.load_fittable(methods.REFERENCE)
    plain = fit_adapter(method, method.config_type(), SOURCE, FitContext())
    gained = fit_adapter(method, method.config_type(), SOURCE, FitContext(sensitivities=WEIGHTS))
    assert gained.gains == {"heavy": gain_index(8), "light": gain_index(1 / 8)}
    for name, factor in {"heavy": 64, "light": 1 / 64, "plain": 1}.items():
        assert gained.profiles[name].energy == pytest.approx(factor * plain.profiles[name].energy, rel=1e-5)
    assert gained.context.sensitivities["heavy"].weight == 1


def test_sensitivities_of_other_modules_change_nothing() -> None:
    method = methods.load_fittable(methods.REFERENCE)
    context = FitContext(sensitivities={"elsewhere": Sensitivity(9.0)})
    assert fit_adapter(method, method.config_type(), SOURCE, context).gains == {}


def relative(after: Adapter, name: str) -> float:
    full = dense(SOURCE, name)
    return float((dense(after, name) - full).norm() / full.norm())


def made(name: str, sensitivities: dict[str, Sensitivity], basis: Path, budget: str) -> tuple[Made, Adapter]:
    job = job_of(name, SOURCE, sensitivities, budget=budget, **needs_file(name, SOURCE, basis))
    result = run(job)
    return result, adaptzip.reconstruct(result.compressed, basis=basis if basis.exists() else None)


@pytest.mark.filterwarnings("ignore::adaptzip.errors.AdaptzipWarning")
@pytest.mark.parametrize("name", EVERY)
def test_what_matters_more_gets_a_smaller_error_at_equal_bytes(name: str, tmp_path: Path) -> None:
    budget, basis = f"{600 + stored_numbers(name, SOURCE) * 4 // 8}B", tmp_path / "x.basis"
    if methods.load_fittable(name).fits_little:
        budget = f"{bare_size(job_of(name, SOURCE, budget=budget)) + 20}B"  # numbers that modules have to share
    weighted, after = made(name, WEIGHTS, basis, budget)
    plain, before = made(name, {}, basis, budget)
    assert relative(after, "heavy") < relative(before, "heavy")
    assert relative(after, "heavy") < relative(after, "light")
    assert relative(after, "light") >= relative(before, "light")
    assert writer.size(weighted.compressed) <= int(budget[:-1])
    # What was minimised is the weighted error; what the file states is the plain one.
    weights = {"heavy": 64.0, "light": 1 / 64, "plain": 1.0}
    energy = {n: float(dense(SOURCE, n).square().sum()) for n in weights}
    error = {n: (relative(after, n) ** 2) * energy[n] for n in weights}
    wanted = sum(weights[n] * error[n] for n in weights) / sum(weights[n] * energy[n] for n in weights)
    assert weighted.error == pytest.approx(wanted**0.5, rel=2e-2)
    assert weighted.compressed.provenance.relative_error == pytest.approx(relative_error(SOURCE, after), rel=1e-3)
    assert plain.compressed.provenance.relative_error == pytest.approx(plain.error, rel=1e-3)
    assert plain.compressed.provenance.relative_error < weighted.compressed.provenance.relative_error


@pytest.mark.parametrize("name", EVERY)
def test_a_file_with_gains_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    compressed = run(job_of(name, SOURCE, WEIGHTS)).compressed
    assert bool(compressed.gains) == methods.load_fittable(name).gained
    writer.write(compressed, tmp_path / "x.adz")
    assert list(adaptzip.open(tmp_path / "x.adz").gains) == list(compressed.gains)
    after = adaptzip.reconstruct(tmp_path / "x.adz")
    assert same_factors(after, adaptzip.reconstruct(compressed))
    assert verify(tmp_path / "x.adz", SOURCE).passed
    alone = adaptzip.reconstruct(tmp_path / "x.adz", modules=["light"])
    assert same_factors(alone, Adapter({"light": after.modules["light"]}))


def test_a_weighted_error_is_the_one_that_is_met() -> None:
    result = run(job_of("svd", SOURCE, WEIGHTS, max_error=0.1))
    assert 0.098 < result.error <= 0.1
    assert result.compressed.provenance.relative_error > 0.1


def test_gains_of_one_are_not_stored() -> None:
    compressed = run(job_of("svd", SOURCE, {name: Sensitivity(1.0) for name in SOURCE.modules})).compressed
    assert compressed.gains == ()


def test_a_common_factor_of_all_weights_changes_no_error() -> None:
    """Only the ratio of weights matters."""
    results = [run(job_of("svd", SOURCE, {n: Sensitivity(w) for n in SOURCE.modules})) for w in (1.0, 16.0)]
    one, four = (adaptzip.reconstruct(result.compressed) for result in results)
    assert results[0].error == pytest.approx(results[1].error, rel=1e-6)
    assert list(results[0].compressed.chunks) == list(results[1].compressed.chunks)
    assert same_factors(one, four)


def test_weights_hold_for_ranks_as_well() -> None:
    method = methods.load_fittable("svd")
    plain, weighted = (
        fit("svd", SOURCE),
        fit_adapter(
            method,
            method.config_type(),
            SOURCE,
            replace(FitContext(), sensitivities=WEIGHTS),
        ),
    )
    step = 0.2
    assert plain.ranks(step).get("heavy", 0) < weighted.ranks(step)["heavy"]
    assert weighted.ranks(step).get("light", 0) < plain.ranks(step).get("light", 0) or not plain.ranks(step)
