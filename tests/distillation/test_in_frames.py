"""Students that keep to the frames of their modules: where, with which components, and that nothing leaves them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.distillation import in_frames
from adaptzip.distillation.beginning import Beginning, fitted_or_read
from adaptzip.distillation.distilling import distill
from adaptzip.distillation.in_frames import best_within
from adaptzip.distillation.tensors import trained_of
from adaptzip.fitting.candidates import candidates, fit_candidate, with_ranks
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Job, Request, prepare_job
from adaptzip.restoring.reconstruction import reconstruct
from tests.cases.teachers import CPU, SHORT, classifier, texts

FEW, MANY = "545B", "900B"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules this small take fewer bytes altogether than a file's head does."""
    monkeypatch.setattr(in_frames, "_SHARE", 7.0)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Adapter, Path]:
    """(base, teacher, start): a teacher, and a file of what its A began with."""
    folder = tmp_path_factory.mktemp("known")
    base, teacher = classifier(folder)
    torch.manual_seed(1)
    began = {name: replace(m, A=m.A + 0.3 * m.A.std() * torch.randn_like(m.A)) for name, m in teacher.modules.items()}
    adaptzip.compress(replace(teacher, modules=began), folder / "began.adz", lossless=True)
    return base, teacher, folder / "began.adz"


def begun(known: tuple[Path, Adapter, Path], budget: str, **given: Any) -> Beginning:
    base, teacher, start = known
    request = Request(**{"budget": Budget.parse(budget), "base": base, "start": start, "device": "cpu", **given})
    return fitted_or_read(load_source(teacher, request), request, CPU, room=60)


def outside(beginning: Beginning) -> dict[str, Tensor]:
    sites = beginning.coder.sites
    return {name: own["V"] for name, own in beginning.tensors.modules.items() if sites[name].frame}


def test_few_bytes_keep_to_the_frames(known: tuple[Path, Adapter, Path]) -> None:
    beginning = begun(known, FEW)
    assert outside(beginning)
    assert not any(bool(V.any()) for V in outside(beginning).values())
    assert beginning.tensors.held == {(name, "V") for name in outside(beginning)}
    assert not any(place in beginning.tensors.held for place in trained_of(beginning.coder, beginning.tensors))
    # More components than those that pay for all of their numbers.
    plain = begun(known, FEW, start="none")
    assert sum(beginning.tensors.ranks.values()) > sum(plain.tensors.ranks.values())
    assert not plain.tensors.held


def test_where_there_is_room_nothing_is_held(known: tuple[Path, Adapter, Path]) -> None:
    beginning = begun(known, MANY)
    assert not beginning.tensors.held
    assert any(bool(V.any()) for V in outside(beginning).values())
    assert not begun(known, FEW, allocate="uniform").tensors.held


def test_training_stays_within_the_frames(known: tuple[Path, Adapter, Path], tmp_path: Path) -> None:
    base, teacher, start = known
    given: dict[str, Any] = {"teacher": teacher, "base": base, "data": texts(), "schedule": SHORT, "device": "cpu"}
    made = distill(None, tmp_path / "a.adz", budget=FEW, start=start, **given)
    limit = Budget.parse(FEW).bytes_for(0)
    assert limit is not None
    assert writer.size(made.compressed) <= limit
    basis = adaptzip.read(start).modules
    for name, module in reconstruct(made.compressed, basis=start).modules.items():
        rows = basis[name].A.double()
        inside = module.A.double() @ torch.linalg.pinv(rows) @ rows
        assert torch.allclose(inside, module.A.double(), atol=1e-4 * float(module.A.abs().max() + 1e-9))
    request = Request(base=base, basis=start, device="cpu")
    again = fitted_or_read(tmp_path / "a.adz", request, CPU)
    assert again.tensors.held == {(name, "V") for name in outside(again)} != frozenset()


def job_of(known: tuple[Path, Adapter, Path]) -> Job:
    base, teacher, start = known
    request = Request(budget=Budget.parse(FEW), base=base, start=start, device="cpu")
    return with_ranks(prepare_job(load_source(teacher, request), request))


def test_the_best_components_come_first(known: tuple[Path, Adapter, Path]) -> None:
    """By the energy that a component keeps in its frame, for each number that it takes there."""
    job = job_of(known)
    fitted = fit_candidate(job, candidates(job)[0])
    ranked = []
    for name, profile in fitted.profiles.items():
        cost = fitted.sites[name].out + fitted.sites[name].frame
        ranked += [(energy / cost, name, cost) for energy in fitted.method.kept_in_frame(profile)]
    (_, first, cost), (_, second, more) = sorted(ranked, reverse=True)[:2]
    assert best_within(fitted, cost - 1).get(first, 0) == 0
    assert best_within(fitted, cost) == {first: 1}
    expected = {first: 2} if second == first else {first: 1, second: 1}
    assert best_within(fitted, cost + more) == expected
    every = best_within(fitted, 1e9)
    assert every == {name: len(profile.scores) for name, profile in fitted.profiles.items()}
