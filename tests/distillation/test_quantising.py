"""Tensors in training: where they start, what they decode to, and the step that a budget allows."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import pytest
import torch

from adaptzip import methods
from adaptzip.adz.coding.decoding import decode_module, decode_shared
from adaptzip.core.adapter import Adapter
from adaptzip.core.compressed import TensorSpec
from adaptzip.core.gains import divisor
from adaptzip.core.method import FitContext
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.distillation.quantising import as_decoded, code, fill
from adaptzip.distillation.tensors import Tensors, start, trained_places
from adaptzip.errors import CheckFailedError, NoRoomError
from adaptzip.fitting.fit_adapter import fit_adapter
from adaptzip.fitting.fits import CodedAdapter, FittedAdapter
from adaptzip.fitting.steps import GRAIN
from adaptzip.testing.adapters import adapter
from adaptzip.testing.trials import fit
from tests.cases.linear_factors import linear_factors

SOURCE = adapter({"a": (40, 24, 6), "b": (24, 40, 4), "c": (33, 33, 1)}, seed=4)
STEP = 0.02
FITTED = list(methods.fittable())
"""Methods that an update can be fitted by; the others are trained from nothing."""


@dataclass(frozen=True)
class Started:
    fitted: FittedAdapter
    tensors: Tensors


@pytest.fixture(params=FITTED)
def started(request: pytest.FixtureRequest) -> Started:
    return begin(fit(request.param, SOURCE))


def begin(fitted: FittedAdapter) -> Started:
    ranks = {name: len(profile.scores) for name, profile in fitted.profiles.items()}
    return Started(fitted, start(fitted, ranks, STEP))


def size(step: float, coded: CodedAdapter) -> int:
    return coded.bytes


def test_what_training_starts_from_is_the_fit(started: Started) -> None:
    fitted, tensors = started.fitted, started.tensors
    expected = fitted.code(STEP, tensors.ranks, list(tensors.ranks))
    coded, _ = code(fitted.coder, tensors, STEP)
    assert coded.shared.chunk == expected.shared.chunk
    assert {n: m.chunk for n, m in coded.modules.items()} == {n: m.chunk for n, m in expected.modules.items()}
    assert coded.numbers == expected.numbers
    factors = linear_factors(fitted.coder, fitted.gains, tensors)
    for name, module in expected.modules.items():
        A, B = factors[name]
        error = float((B @ A - SOURCE.modules[name].delta()).square().sum())
        assert error < 1.5 * module.squared_error + 1e-6


def test_what_is_coded_decodes_to_what_was_told(started: Started) -> None:
    coder = started.fitted.coder
    coded, told = code(coder, started.tensors, STEP)
    shared = decode_shared(coder, coded.shared.chunk, STEP)
    assert told.shared.keys() == shared.keys()
    assert all(torch.equal(told.shared[role], value) for role, value in shared.items())
    factors = linear_factors(coder, {}, told)
    for name, module in coded.modules.items():
        own = decode_module(coder, module.chunk, STEP, name)
        A, B = coder.method.reconstruct({**shared, **coder.basis_tensors(name), **own}, coder.sites[name], coder.config)
        torch.testing.assert_close(factors[name][1] @ factors[name][0], B @ A, atol=1e-6, rtol=1e-5)
        assert module.numbers == sum(tensor.numel() for tensor in own.values())


def test_training_sees_what_will_be_decoded(started: Started) -> None:
    coder, tensors = started.fitted.coder, started.tensors
    every = dict(tensors.items())
    places = trained_places(coder, tensors)
    seen = as_decoded({place: every[place] for place in places}, STEP)
    _, told = code(coder, tensors, STEP)
    decoded = dict(told.items())
    assert all(torch.equal(seen[place], decoded[place]) for place in places)
    kinds = {spec.role: spec.kind for spec in layouts(started)}
    assert {role for _, role in places} == {role for role, kind in kinds.items() if kind == "real"}
    for place in every.keys() - set(places):
        torch.testing.assert_close(decoded[place], every[place])


def layouts(started: Started) -> list[TensorSpec]:
    coder = started.fitted.coder
    found = list(coder.method.shared_layout(coder.config))
    for name, rank in started.tensors.ranks.items():
        found += coder.method.layout(coder.sites[name], rank, coder.config)
    return found


def test_every_trained_number_has_a_gradient(started: Started) -> None:
    coder, tensors = started.fitted.coder, started.tensors
    every = dict(tensors.items())
    leaves = {place: every[place].clone().requires_grad_() for place in trained_places(coder, tensors)}
    factors = linear_factors(coder, {}, tensors.replaced(leaves))
    target = {name: SOURCE.modules[name].delta() + 0.01 for name in factors}
    errors = [(B @ A - target[name]).square().sum() for name, (A, B) in factors.items()]
    torch.autograd.backward(torch.stack(errors).sum())
    for leaf in leaves.values():
        assert leaf.grad is not None
        assert bool(leaf.grad.any())
        assert bool(leaf.grad.isfinite().all())


def test_a_budget_is_filled(started: Started) -> None:
    coder, tensors = started.fitted.coder, started.tensors
    coarse, fine = (code(coder, tensors, step)[0].bytes for step in (0.1, 0.005))
    limit = (coarse + fine) // 2
    written = fill(coder, tensors, size, limit, STEP)
    assert limit - max(0.03 * limit, GRAIN / 4) <= written.size == written.coded.bytes <= limit
    other = fill(coder, tensors, size, limit, 30 * STEP)
    assert limit - max(0.03 * limit, GRAIN / 4) <= other.size <= limit


def test_more_bytes_than_are_of_use_are_not_filled(started: Started) -> None:
    coder, tensors = started.fitted.coder, started.tensors
    written = fill(coder, tensors, size, 10**6, STEP)
    assert written.size < 20_000
    factors, decoded = linear_factors(coder, {}, tensors), linear_factors(coder, {}, written.tensors)
    error = sum(
        float((b[1] @ b[0] - a[1] @ a[0]).square().sum())
        for a, b in zip(factors.values(), decoded.values(), strict=True)
    )
    energy = sum(float((B @ A).square().sum()) for A, B in factors.values())
    assert 1e-6 < (error / energy) ** 0.5 < 1e-3
    assert fill(coder, tensors, size, 10**6, 1e-9 * STEP).step == pytest.approx(written.step)


def test_too_few_bytes_are_refused(started: Started) -> None:
    coder, tensors = started.fitted.coder, started.tensors
    most = code(coder, tensors, 1e6)[0].bytes - 1
    with pytest.raises(CheckFailedError, match=f"no step was found at which the file takes at most {most} bytes"):
        fill(coder, tensors, size, most, STEP)


def test_nothing_but_zeros_is_refused(started: Started) -> None:
    """Unless something takes no more bytes."""
    coder, tensors = started.fitted.coder, started.tensors
    found: list[Tensors] = []
    with suppress(NoRoomError):
        found.append(fill(coder, tensors, size, code(coder, tensors, 1e6)[0].bytes, STEP).tensors)
    assert all(any(bool(tensor.any()) for _, tensor in kept.items()) for kept in found)


def test_modules_of_rank_0_have_no_update() -> None:
    method = methods.load_fittable(methods.REFERENCE)
    source = Adapter({**SOURCE.modules, "d": adapter({"d": (8, 6, 2)}).modules["d"]})
    fitted = fit(method.name, source)
    tensors = start(fitted, {"a": 2, "b": 1}, STEP)
    A, B = linear_factors(fitted.coder, {}, tensors)["d"]
    assert (A.shape, B.shape) == ((0, 6), (8, 0))
    coded, _ = code(fitted.coder, tensors, STEP)
    assert coded.modules.keys() == {"a", "b"}


@pytest.mark.parametrize("name", [name for name in FITTED if methods.load_fittable(name).gained])
def test_gains_are_undone(name: str) -> None:
    gains = {"a": Sensitivity(4.0), "b": Sensitivity(0.25), "c": Sensitivity(1.0)}
    plain = fit(name, SOURCE)
    fitted = fit_adapter(plain.method, plain.config, SOURCE, _weighted(plain, gains))
    started = begin(fitted)
    assert fitted.gains == {"a": 4, "b": -4}
    factors = linear_factors(fitted.coder, fitted.gains, started.tensors)
    for module in ("a", "b"):
        A, B = factors[module]
        raw = linear_factors(fitted.coder, {}, started.tensors)[module]
        torch.testing.assert_close(A, raw[0] * divisor(fitted.gains[module]))
        delta = SOURCE.modules[module].delta()
        assert float((B @ A - delta).norm()) < 0.5 * float(delta.norm())


def _weighted(fitted: FittedAdapter, sensitivities: dict[str, Sensitivity]) -> FitContext:
    from dataclasses import replace

    return replace(fitted.context, sensitivities=sensitivities)


def test_fits_that_were_not_kept_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptzip.fitting.fit_adapter.KEPT_NUMBERS", 10)
    large = fit(methods.REFERENCE, SOURCE)
    assert not large.kept
    monkeypatch.undo()
    again = begin(large).tensors
    expected = begin(fit(methods.REFERENCE, SOURCE)).tensors
    assert list(again.modules) == list(expected.modules)
    for (place, a), (other, b) in zip(again.items(), expected.items(), strict=True):
        assert place == other
        torch.testing.assert_close(a, b)
