"""`loretta`: orders, options, closed loop, errors and predictions, on made and on real adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import adaptzip
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.compressed import Site
from adaptzip.core.method import FitContext
from adaptzip.core.survey import Allowance
from adaptzip.errors import FormatError, UsageError
from adaptzip.fitting.surveys import survey_of
from adaptzip.methods import load
from adaptzip.testing.adapters import adapter, factors, relative_error

LORETTA: Any = load("loretta")
CPU = torch.device("cpu")
WIDTHS = st.sampled_from((1, 2, 7, 12, 17, 24, 30, 34, 64))


def fit(module: LoraFactors, **options: Any) -> tuple[Any, Any, Site]:
    """(fitted, settled config, site) of one module."""
    context = FitContext()
    config, prepared = LORETTA.prepare({"m": module}, LORETTA.config_type(**options), context)
    return LORETTA.fit({"m": module}, config, prepared, context)["m"], config, Site(*module.shape)


def code(fitted: Any, config: Any, site: Site, rank: int, step: float, *, closed: bool = True) -> dict[str, Tensor]:
    """The tensors of a module rounded to multiples of a step, one after another as the shared code does."""
    done: dict[str, Tensor] = {}
    exact: dict[str, Tensor] = {}
    for spec in LORETTA.layout(site, rank, config):
        target = LORETTA.target(fitted, spec.role, rank, done if closed else exact)
        assert target.shape == (spec.rows, spec.width)
        exact[spec.role] = target
        done[spec.role] = (target / step).round() * step
    return done


def error_of(module: LoraFactors, tensors: Mapping[str, Tensor], config: Any) -> float:
    A, B = LORETTA.reconstruct(tensors, Site(*module.shape), config)
    return float((module.delta().double() - B.double() @ A.double()).square().sum())


@pytest.mark.parametrize("order", ["delta", "rep"])
@pytest.mark.parametrize(
    "shape", [(40, 24, 6), (33, 17, 4), (97, 64, 3), (1, 30, 2), (30, 1, 2), (1, 1, 1), (64, 64, 1)]
)
def test_the_largest_rank_is_exact(order: str, shape: tuple[int, int, int]) -> None:
    module = factors(*shape)
    fitted, config, site = fit(module, order=order)
    profile = LORETTA.profile(fitted)
    rank = len(profile.scores)
    assert rank <= LORETTA.max_rank(site, config)
    tensors = code(fitted, config, site, rank, 1e-7)
    energy = float(module.delta().double().square().sum())
    assert profile.energy == pytest.approx(energy, rel=1e-5)
    assert error_of(module, tensors, config) < 1e-8 * energy


@settings(deadline=None, max_examples=40)
@given(WIDTHS, WIDTHS, st.integers(1, 6), st.integers(1, 9), st.sampled_from(("delta", "rep")), st.integers(0, 9))
def test_the_error_without_the_dense_update_is_the_dense_one(
    out: int, width: int, lora: int, rank: int, order: str, seed: int
) -> None:
    module = factors(out, width, lora, seed=seed)
    fitted, config, site = fit(module, order=order)
    profile = LORETTA.profile(fitted)
    rank = min(rank, len(profile.scores))
    step = float(profile.energy) ** 0.5 / 40
    tensors = code(fitted, config, site, rank, step)
    found = LORETTA.squared_error(fitted, tensors)
    assert found == pytest.approx(error_of(module, tensors, config), rel=1e-3, abs=1e-6 * profile.energy)


def test_what_a_rank_keeps_is_measured() -> None:
    module = factors(96, 64, 6)
    fitted, config, site = fit(module)
    profile = LORETTA.profile(fitted)
    for rank in (1, 2, 4, 8):
        error = LORETTA.squared_error(fitted, code(fitted, config, site, rank, 1e-7))
        assert error == pytest.approx(profile.energy * (1 - profile.kept[rank - 1]), rel=0.02)
        assert LORETTA.predict(profile, rank, 1e-9)[1] == pytest.approx(error, rel=0.02)
    assert all(np.diff(profile.kept) >= 0)


def test_scores_fall_and_sum_to_the_energy() -> None:
    fitted, _, _ = fit(factors(96, 64, 6))
    profile = LORETTA.profile(fitted)
    numbers = np.diff(profile.ladder.numbers, prepend=0)
    assert all(a >= b - 1e-12 for a, b in zip(profile.scores, profile.scores[1:], strict=False))
    assert float(np.dot(profile.scores, numbers)) == pytest.approx(profile.energy, rel=1e-3)


@pytest.mark.parametrize("order", ["delta", "rep"])
def test_the_closed_loop_beats_the_open_one(order: str) -> None:
    closed = opened = 0.0
    for seed in range(4):
        module = factors(96, 96, 4, seed=seed)
        fitted, config, site = fit(module, order=order)
        profile = LORETTA.profile(fitted)
        step = profile.energy**0.5 / 20
        for rank in (6, len(profile.scores)):
            closed += LORETTA.squared_error(fitted, code(fitted, config, site, rank, step))
            opened += LORETTA.squared_error(fitted, code(fitted, config, site, rank, step, closed=False))
    assert closed < 0.98 * opened


def test_sweeps_lower_the_error() -> None:
    module = factors(96, 96, 4)
    kept = [LORETTA.profile(fit(module, sweeps=sweeps)[0]).kept[3] for sweeps in (0, 1, 4)]
    assert kept[0] < kept[1] <= kept[2]


def test_a_module_may_have_less_than_the_lora_rank() -> None:
    modules = {"a": factors(96, 64, 2), "b": factors(96, 64, 7)}
    config, prepared = LORETTA.prepare(modules, LORETTA.config_type(), FitContext())
    assert config.lora_rank == 7
    fits = LORETTA.fit(modules, config, prepared, FitContext())
    for name, module in modules.items():
        profile = LORETTA.profile(fits[name])
        for rank in (3, 8, len(profile.scores)):
            tensors = code(fits[name], config, Site(96, 64), rank, 1e-7)
            expected = profile.energy * (1 - profile.kept[rank - 1])
            assert error_of(module, tensors, config) == pytest.approx(expected, rel=0.02, abs=1e-6 * profile.energy)


def test_sums_of_coded_rows_are_those_of_the_bonds() -> None:
    """Rows are scaled by the singular values of their bonds, so that one step is right for all cores."""
    module = factors(96, 64, 5)
    fitted, config, site = fit(module)
    S = module.svd()[1]
    rank = len(LORETTA.profile(fitted).scores)
    tensors = code(fitted, config, site, rank, 1e-7)
    for stored in tensors.values():
        torch.testing.assert_close(stored.norm(dim=1), S, rtol=1e-3, atol=1e-5)
    for stored in code(fitted, config, site, 4, 1e-7).values():
        norms = stored.norm(dim=1)
        assert (norms[:-1] >= 0.98 * norms[1:]).all()


def test_rep_and_delta_differ_only_below_the_lora_rank() -> None:
    site, config = Site(96, 96), LORETTA.config_type(lora_rank=6)
    rep = replace(config, order="rep")
    assert LORETTA.layout(site, 4, config) != LORETTA.layout(site, 4, rep)
    assert LORETTA.layout(site, 6, config) == LORETTA.layout(site, 6, rep)
    roles = [spec.role for spec in LORETTA.layout(site, 4, config)]
    assert roles == [f"core.{i}" for i in range(len(roles))]
    directions = [spec.directions for spec in LORETTA.layout(site, 4, config)]
    assert directions == [True] * (len(roles) - 1) + [False]


def test_both_orders_are_candidates_where_they_can_differ() -> None:
    survey = survey_of(adapter([(40, 24, 3)]), CPU)
    config = LORETTA.config_type()

    def orders(config: Any, **allowance: Any) -> list[str]:
        return [c.config.order for c in LORETTA.candidates(survey, config, Allowance(**allowance))]

    assert orders(config, parameters=500) == ["delta", "rep"]
    assert orders(replace(config, rank=2), bytes=500) == ["delta", "rep"]
    assert orders(config, bytes=500) == ["delta"]
    assert orders(replace(config, order="rep"), parameters=500) == ["rep"]


def test_caps_and_tolerance_bound_the_tt_rank() -> None:
    module = factors(96, 64, 6)
    assert len(LORETTA.profile(fit(module, rank=3)[0]).scores) == 3
    profile = LORETTA.profile(fit(module, tolerance=0.5)[0])
    assert profile.kept[-1] >= 0.75
    assert len(profile.scores) == 1 or profile.kept[-2] < 0.75
    context = FitContext(ranks={"m": 2})
    config, prepared = LORETTA.prepare({"m": module}, LORETTA.config_type(), context)
    assert len(LORETTA.profile(LORETTA.fit({"m": module}, config, prepared, context)["m"]).scores) == 2


def test_a_cap_on_the_lora_rank_is_a_truncated_svd() -> None:
    module = factors(96, 64, 6)
    fitted, config, site = fit(module, lora_rank=2)
    profile = LORETTA.profile(fitted)
    tensors = code(fitted, config, site, len(profile.scores), 1e-7)
    cut = float(module.svd()[1][2:].double().square().sum())
    assert LORETTA.squared_error(fitted, tensors) == pytest.approx(cut, rel=1e-3)


@pytest.mark.parametrize(
    "options",
    [{"order": "both"}, {"rank": 0}, {"rank": 2.0}, {"lora_rank": 0}, {"sweeps": -1}, {"sweeps": None},
     {"tolerance": 0.0}, {"tolerance": 1.0}, {"tolerance": "x"}],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as error:
        LORETTA.config_type(**options)
    assert next(iter(options)) in str(error.value)


def test_reconstruct_is_differentiable() -> None:
    module = factors(12, 10, 3)
    fitted, config, site = fit(module)
    for rank in (2, len(LORETTA.profile(fitted).scores)):
        tensors = {r: t.double().requires_grad_() for r, t in code(fitted, config, site, rank, 1e-4).items()}
        roles = list(tensors)

        def update(*values: Tensor, roles: list[str] = roles) -> Tensor:
            left, right = _sides(dict(zip(roles, values, strict=True)))
            return left @ right.T

        assert torch.autograd.gradcheck(update, tuple(tensors.values()), eps=1e-6, atol=1e-5)
        A, B = LORETTA.reconstruct({r: t.float() for r, t in tensors.items()}, site, config)
        (B @ A).square().sum().backward()
        assert all(t.grad is not None and t.grad.any() for t in tensors.values())


def test_zero_rows_have_no_gradient() -> None:
    module = factors(12, 10, 3)
    fitted, config, site = fit(module)
    tensors = code(fitted, config, site, 3, 1e-4)
    tensors["core.0"][1] = 0.0
    tensors = {role: tensor.requires_grad_() for role, tensor in tensors.items()}
    A, B = LORETTA.reconstruct(tensors, site, config)
    (B @ A).square().sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in tensors.values() if t.grad is not None)
    assert not tensors["core.0"].grad[1].any()  # type: ignore[index]


def _sides(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What reconstruct contracts, before it is rounded to float32."""
    from adaptzip.methods import loretta

    return loretta._sides(tensors, 12)


def test_reconstruct_is_the_contraction() -> None:
    """By hand: rows to unit length, cores (left, mode, right), sides from their far ends to the middle."""
    generator = torch.Generator().manual_seed(0)
    config = LORETTA.config_type(order="delta", lora_rank=2)
    site = Site(17 * 2, 3)
    specs = LORETTA.layout(site, 2, config)
    assert [(s.rows, s.width) for s in specs] == [(2, 17), (2, 4), (2, 3)]
    site = Site(96, 3)
    specs = LORETTA.layout(site, 2, config)
    assert [(s.rows, s.width) for s in specs] == [(2, 12), (2, 16), (2, 3)]
    stored = {s.role: torch.randint(-9, 9, (s.rows, s.width), generator=generator).float() for s in specs}
    A, B = LORETTA.reconstruct(stored, site, config)
    first, second = (stored[f"core.{i}"].double() for i in (0, 1))
    first, second = (rows / rows.norm(dim=1, keepdim=True) for rows in (first, second))
    expected = torch.einsum("ai,rak->ikr", first, second.reshape(2, 2, 8)).reshape(96, 2)
    torch.testing.assert_close(B, expected.float())
    assert torch.equal(A, stored["core.2"])


def test_zero_rows_and_zero_modules_vanish(tmp_path: Path) -> None:
    source = adapter({"a": (40, 24, 3), "b": (24, 24, 2)})
    source.modules["b"].B.zero_()
    small = adaptzip.compress(source, to="loretta", max_error=0.5, rank=4)
    assert len(small.chunks[1]) == 0
    assert relative_error(source, adaptzip.reconstruct(small)) <= 0.5
    nothing = adapter({"a": (40, 24, 3)})
    nothing.modules["a"].B.zero_()
    assert adaptzip.compress(nothing, to="loretta").payload_bytes == 0


@pytest.mark.parametrize("budget", ["600", "2k", "1KiB"])
def test_budgets_are_met_end_to_end(budget: str, tmp_path: Path) -> None:
    source = adapter({"a": (96, 64, 4), "c": (33, 35, 1)})
    file = tmp_path / "a.adz"
    made = adaptzip.compress(source, file, to="loretta", order="delta", budget=budget)
    if budget.endswith("KiB"):
        assert file.stat().st_size <= 1024
    else:
        assert made.provenance.parameters <= {"600": 600, "2k": 2000}[budget]
    after = adaptzip.reconstruct(file)
    assert relative_error(source, after) == pytest.approx(made.provenance.relative_error, rel=1e-3)
    assert set(after.modules) == set(source.modules)


def test_an_odd_config_in_a_file_is_a_format_error() -> None:
    source = adapter({"a": (40, 24, 3)})
    made = adaptzip.compress(source, to="loretta", max_error=0.3)
    for broken in ({"order": "sideways"}, {"lora_rank": "many"}, {"lora_rank": 0}, {"stranger": 1}):
        with pytest.raises((FormatError, UsageError, adaptzip.AdaptzipError)):
            adaptzip.reconstruct(replace(made, config={**made.config, **broken}))


def test_predictions_are_near_what_is_coded() -> None:
    from adaptzip.fitting.fit_adapter import fit_adapter

    source = adapter({f"m.{i}": (96, 128, 4) for i in range(3)})
    fitted = fit_adapter(LORETTA, LORETTA.config_type(order="delta"), source, FitContext())
    for share in (0.02, 0.08):
        step = fitted.energy**0.5 * share / 10
        ranks = fitted.ranks(step)
        size, error = fitted.predict(step, ranks)
        coded = fitted.code(step, ranks, list(fitted.profiles))
        assert size == pytest.approx(coded.bytes, rel=0.25)
        assert error == pytest.approx(fitted.squared_error(coded, list(fitted.profiles)), rel=0.35)


def test_a_real_adapter(material: Path) -> None:
    source = adaptzip.read(material / "adapters" / "minilm-trec-r8")
    made = adaptzip.compress(source, to="loretta", max_error=0.3)
    assert relative_error(source, adaptzip.reconstruct(made)) <= 0.3
    modules = dict(list(source.modules.items())[:4])
    for name in modules:
        refined, plain = (fit(modules[name], rank=5, sweeps=sweeps)[0].profile for sweeps in (3, 0))
        assert refined.kept[-1] > plain.kept[-1]
