"""Fitting an adapter: what is kept, what is predicted, and what is coded of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from adaptzip import Adapter, LoraFactors, methods
from adaptzip.core import batching
from adaptzip.core.batching import batches
from adaptzip.core.method import FitContext, Method
from adaptzip.fitting.candidates import candidates, fit_candidate
from adaptzip.fitting.fit_adapter import fit_adapter
from adaptzip.fitting.fits import NOTHING_CODED, FittedAdapter
from adaptzip.fitting.surveys import sites_of, survey_of
from adaptzip.methods._svd_rates import SvdProfile
from adaptzip.testing.adapters import adapter, dense
from adaptzip.testing.trials import fit, job_of
from tests.cases import seventh_method
from tests.cases.plugging import installed

SOURCE = adapter({"a": (40, 24, 6), "b": (24, 40, 4), "c": (33, 33, 1)}, seed=4)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("toys")):
        yield


def with_zero() -> Adapter:
    return Adapter({**SOURCE.modules, "z": LoraFactors(torch.randn(2, 24), torch.zeros(40, 2))})


def svd(source: Adapter = SOURCE, **context: Any) -> FittedAdapter:
    method = methods.load_fittable("svd")
    return fit_adapter(method, method.config_type(), source, FitContext(**context))


def test_sites_and_spectra_are_those_of_the_updates() -> None:
    found = survey_of(with_zero(), CPU)
    assert list(found.sites) == ["a", "b", "c", "z"]
    for name in SOURCE.modules:
        expected = np.linalg.svd(dense(SOURCE, name).numpy(), compute_uv=False)
        values = found.singular[name]
        assert values == pytest.approx(expected[: len(values)], rel=1e-5, abs=1e-7)
    assert len(found.singular["z"]) == 0
    assert found.energy == pytest.approx(sum(float(dense(SOURCE, n).square().sum()) for n in SOURCE.modules), rel=1e-5)


def test_modules_that_are_zero_have_no_profile() -> None:
    assert list(svd(with_zero()).profiles) == list(SOURCE.modules)
    assert list(svd(with_zero()).sites) == ["a", "b", "c", "z"]


def test_caps_bound_the_ranks() -> None:
    fitted = svd()
    free = fitted.ranks(1e-3)
    caps = {"a": 2, "b": 0, "c": 9}
    assert free["a"] > 2
    assert fitted.ranks(1e-3, caps) == {"a": 2, "c": 1}
    assert fitted.ranks(1e9) == {}


def test_predictions_of_modules_add_up() -> None:
    fitted = svd()
    ranks = fitted.ranks(0.02)
    parts = [fitted.predict(0.02, ranks, [name]) for name in fitted.profiles]
    whole = fitted.predict(0.02, ranks)
    assert whole == pytest.approx(tuple(map(sum, zip(*parts, strict=True))))
    assert fitted.predict(0.02, {})[0] == 0.0
    assert fitted.predict(0.02, {})[1] == pytest.approx(fitted.energy)


def test_what_is_shared_is_predicted_once_and_counted() -> None:
    fitted = fit("seventh", SOURCE)
    ranks = fitted.ranks(0.02)
    parts = sum(fitted.predict(0.02, ranks, [name])[0] for name in fitted.profiles)
    shared = fitted.method.predict_shared(fitted.prepared, fitted.config, 0.02) / 8
    assert shared > 0
    assert fitted.predict(0.02, ranks)[0] == pytest.approx(parts + shared)
    assert fitted.predict(0.02, {})[0] == 0
    assert fitted.coder.basis is not None
    bases = sum(u.numel() + v.numel() for u, v in ((m.U, m.V) for m in fitted.coder.basis.modules.values()))
    assert fitted.basis_numbers == bases
    config = fitted.config
    assert isinstance(config, seventh_method.Config)
    assert config.patterns is not None
    assert config.width is not None
    assert fitted.shared_numbers == bases + config.patterns * config.width
    assert fitted.numbers("a", 0) == 0
    assert fitted.numbers("a", 2) == 2 * (2 + 1 + config.width)


def test_only_modules_with_a_rank_are_coded() -> None:
    fitted = svd()
    assert fitted.code(0.02, {}, list(fitted.profiles)) is NOTHING_CODED
    coded = fitted.code(0.02, {"a": 2}, list(fitted.profiles))
    assert list(coded.modules) == ["a"]
    assert coded.numbers == 2 * (40 + 24)
    assert coded.bytes == len(coded.modules["a"].chunk)


def test_modules_that_are_not_coded_count_whole() -> None:
    fitted = svd()
    coded = fitted.code(0.02, {"a": 2}, list(fitted.profiles))
    rest = fitted.profiles["b"].energy + fitted.profiles["c"].energy
    assert fitted.squared_error(coded, list(fitted.sites)) == pytest.approx(coded.modules["a"].squared_error + rest)


@pytest.mark.parametrize("name", ["svd", "sixth", "seventh"])
def test_large_adapters_are_fitted_again_and_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = fit(name, SOURCE)
    monkeypatch.setattr("adaptzip.fitting.fit_adapter.KEPT_NUMBERS", 10)
    monkeypatch.setattr(batching, "_MOST_NUMBERS", 300)
    monkeypatch.setattr(batching, "_LEAST_NUMBERS", 300)
    again = fit(name, SOURCE)
    assert kept.kept
    assert not again.kept
    ranks = kept.ranks(0.02)
    assert again.ranks(0.02) == ranks
    one, other = (f.code(0.02, ranks, list(f.profiles)) for f in (kept, again))
    assert {n: m.chunk for n, m in one.modules.items()} == {n: m.chunk for n, m in other.modules.items()}
    assert one.shared.chunk == other.shared.chunk


def test_large_adapters_are_sampled_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    many = adapter([(10, 8, 2)] * 40)
    monkeypatch.setattr("adaptzip.fitting.fit_adapter.KEPT_NUMBERS", 10)
    monkeypatch.setattr("adaptzip.fitting.fits.SAMPLE_NUMBERS", 10 * 36)
    samples = [list(svd(many, seed=seed).sample) for seed in (0, 0, 1)]
    assert len(samples[0]) == 10
    assert samples[0] == samples[1] != samples[2]
    assert not svd(many).complete
    monkeypatch.undo()
    assert svd(many).complete


def test_batches_keep_the_order_and_the_limit() -> None:
    modules = adapter([(10, 8, 2)] * 5 + [(100, 80, 4)]).modules
    found = list(batches(list(modules), modules, 100))
    assert [len(batch) for batch in found] == [2, 2, 1, 1]
    assert [name for batch in found for name in batch] == list(modules)


class Watched(Method[Any, Any, Any, str]):
    """A method that remembers what it was given."""

    name = "watched"
    version = 1
    summary = paper = "none"
    roles = ("U", "V")
    inner = methods.load_fittable("svd")
    config_type = inner.config_type
    spans_modules = True

    def __init__(self, gained: bool = True) -> None:
        self.gained = gained  # type: ignore[misc]
        self.prepared: list[tuple[Mapping[str, LoraFactors], FitContext]] = []
        self.fitted: list[tuple[Mapping[str, LoraFactors], FitContext]] = []

    def prepare(self, modules: Mapping[str, LoraFactors], config: Any, context: FitContext) -> tuple[Any, Any]:
        self.prepared.append((modules, context))
        return config, "state"

    def fit(
        self, modules: Mapping[str, LoraFactors], config: Any, prepared: Any, context: FitContext
    ) -> dict[str, Any]:
        assert prepared == "state"
        self.fitted.append((modules, context))
        return self.inner.fit(modules, config, None, context)

    def profile(self, fitted: Any) -> Any:
        return self.inner.profile(fitted)

    rank = predict = layout = target = squared_error = reconstruct = None  # type: ignore[assignment]


def test_a_method_that_spans_modules_sees_those_that_are_not_zero() -> None:
    method = Watched()
    assert method.spans_modules
    assert not methods.load_fittable("svd").spans_modules
    fit_adapter(method, method.config_type(), with_zero(), FitContext())
    assert [sorted(modules) for modules, _ in method.prepared] == [["a", "b", "c"]]
    assert {name for modules, _ in method.fitted for name in modules} == {"a", "b", "c"}


def test_a_method_that_spans_modules_is_not_asked_about_nothing() -> None:
    method = Watched()
    zero = Adapter({"z": LoraFactors(torch.randn(2, 24), torch.zeros(40, 2))})
    fitted = fit_adapter(method, method.config_type(), zero, FitContext())
    assert method.prepared == method.fitted == []
    assert fitted.profiles == {}


@pytest.mark.parametrize("gained", [True, False])
def test_weights_go_into_gains_or_to_the_method(gained: bool) -> None:
    from adaptzip.core.sensitivity import Sensitivity

    method = Watched(gained)
    moments = torch.eye(24)
    fit_adapter(method, method.config_type(), SOURCE, FitContext(sensitivities={"a": Sensitivity(4.0, moments)}))
    for modules, context in [*method.prepared, *method.fitted]:
        if "a" in modules:
            expected = SOURCE.modules["a"].scaling * (2 if gained else 1)
            assert modules["a"].scaling == pytest.approx(expected)
            assert context.sensitivities["a"].weight == (1.0 if gained else 4.0)
            assert context.sensitivities["a"].moments is moments


def test_progress_names_its_phases() -> None:
    heard: list[tuple[str, float, float]] = []
    job = job_of("seventh", SOURCE)
    fit_candidate(job, candidates(job)[0], lambda *step: heard.append(step))
    assert {phase for phase, _, _ in heard} == {"preparing", "fitting"}
    assert heard[-1][1] == heard[-1][2]


def test_sites_are_sorted() -> None:
    backwards = Adapter(dict(reversed([*SOURCE.modules.items()])))
    assert list(sites_of(backwards)) == sorted(SOURCE.modules)


def test_factors_are_fitted_in_float32_whatever_they_were_read_in() -> None:
    half = {n: replace(m, A=m.A.double(), B=m.B.double()) for n, m in SOURCE.modules.items()}
    one, other = svd(), svd(Adapter(half))
    for name in half:
        first, second = one.profiles[name], other.profiles[name]
        assert isinstance(first, SvdProfile)
        assert isinstance(second, SvdProfile)
        assert np.array_equal(first.singular, second.singular)
