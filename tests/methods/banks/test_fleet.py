"""Fitting a bank to many adapters: memory that stays flat, equal bits again, and what the passes gain."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping

import pytest
import torch

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.workers import on_one_core
from adaptzip.methods._banks import fleet as module
from adaptzip.methods._banks.factors import groups, squared_errors
from adaptzip.methods._banks.fit import Shape
from adaptzip.methods._banks.fleet import coded_groups, draw, energy_of, fit_fleet
from adaptzip.methods._banks.refining import decoded
from tests.cases.shared_pieces import RANK, alike

CPU = torch.device("cpu")
SHAPE = Shape(h=30, length=32, k=2, levels=64)


def over(adapters: list[Adapter]) -> Iterator[Mapping[str, LoraFactors]]:
    return (adapter.modules for adapter in adapters)


@on_one_core()
def fit(adapters: list[Adapter], shape: Shape = SHAPE) -> torch.Tensor:
    return fit_fleet(lambda: over(adapters), draw(lambda: over(adapters), 0), shape, RANK, 0, CPU)[0]


def error(adapters: list[Adapter], bank: torch.Tensor) -> float:
    modules = {f"{i}/{name}": m for i, a in enumerate(adapters) for name, m in a.modules.items()}
    found = list(groups(modules, dict.fromkeys(modules, RANK), {}, CPU))
    coded = coded_groups(found, bank, SHAPE, SHAPE.levels)
    left = sum(float(squared_errors(g, *decoded(g, c, bank)).sum()) for g, c in zip(found, coded, strict=True))
    return float((left / sum(float(g.energy.sum()) for g in found)) ** 0.5)


def test_the_energy_of_factors() -> None:
    found = LoraFactors(torch.randn(2, 7), torch.randn(5, 2), 0.5)
    assert energy_of(found) == pytest.approx(float(found.delta().square().sum()), rel=1e-5)


def test_equal_input_in_equal_order_gives_equal_bits() -> None:
    assert torch.equal(fit(alike(12)), fit(alike(12)))
    assert not torch.equal(fit(alike(12)), fit(alike(12)[::-1]))


def test_the_last_vector_is_zero() -> None:
    assert not bool(fit(alike(6))[-1].any())


def test_no_more_adapters_live_at_once_than_there_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_NUMBERS", 2000)
    monkeypatch.setattr(module, "BATCH_NUMBERS", 1500)
    alive: weakref.WeakSet[Adapter] = weakref.WeakSet()
    most = passes = 0

    def one_by_one() -> Iterator[Mapping[str, LoraFactors]]:
        nonlocal most, passes
        passes += 1
        for seed in range(40):
            found = alike(1, seed=seed)[0]
            alive.add(found)
            most = max(most, len(alive))
            yield found.modules
            del found

    sample = draw(one_by_one, 0)
    assert (sample.adapters, sample.numbers) == (40, 40 * 2 * 2 * RANK * 32)
    assert 1500 < sum(m.parameters for m in sample.modules.values()) <= 2000
    fit_fleet(one_by_one, sample, SHAPE, RANK, 0, CPU)
    assert passes == 1 + module.PASSES
    assert most <= 2


def test_the_sample_is_drawn_from_all_and_weighs_adapters_alike() -> None:
    adapters = alike(8)
    strong = Adapter({name: LoraFactors(m.A, m.B, 100.0) for name, m in adapters[0].modules.items()})
    sample = draw(lambda: over([strong, *adapters[1:]]), 0)
    weighted = {name: energy_of(m) * sample.weights[name] for name, m in sample.modules.items()}
    shares = [sum(v for name, v in weighted.items() if name.startswith(f"{i}/")) for i in range(8)]
    assert shares == pytest.approx([sample.energy] * 8)


def test_updates_of_zero_are_passed_over() -> None:
    adapters = alike(3)
    nothing = Adapter({name: LoraFactors(m.A, m.B * 0) for name, m in adapters[0].modules.items()})
    sample = draw(lambda: over([nothing, *adapters]), 0)
    assert sample.adapters == 3
    assert fit([nothing, *adapters]).isfinite().all()


def test_passes_bring_what_the_sample_did_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters = alike(40, noise=0.15)
    monkeypatch.setattr(module, "SAMPLE_NUMBERS", 4000)
    after = error(adapters, fit(adapters))
    monkeypatch.setattr(module, "PASSES", 0)
    assert after < 0.97 * error(adapters, fit(adapters))
