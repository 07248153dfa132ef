"""Students in the frames of a basis that adapters share: on both sides, trained, written and trained again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptzip.adz.container import writer
from adaptzip.bases.artefact import read_basis, write_basis
from adaptzip.bases.updates import build_basis
from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.distillation import in_frames
from adaptzip.distillation.beginning import Beginning, fitted_or_read
from adaptzip.distillation.distilling import distill
from adaptzip.distillation.growing import GROWING
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Request
from adaptzip.restoring.reconstruction import reconstruct
from tests.cases.teachers import CPU, SHORT, classifier, texts

FEW, MANY = "545B", "900B"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Adapter, Path]:
    """(base, teacher, basis): a teacher, and a basis of two adapters near to it."""
    folder = tmp_path_factory.mktemp("shared")
    base, teacher = classifier(folder)
    torch.manual_seed(1)

    def near() -> Adapter:
        modules = {
            name: replace(
                m,
                A=m.A + 0.3 * m.A.std() * torch.randn_like(m.A),
                B=m.B + 0.3 * m.B.std() * torch.randn_like(m.B),
            )
            for name, m in teacher.modules.items()
        }
        return replace(teacher, modules=modules)

    write_basis(build_basis([near(), near()], 4), folder / "team.basis")
    return base, teacher, folder / "team.basis"


def begun(shared: tuple[Path, Adapter, Path], budget: str, **given: Any) -> Beginning:
    base, teacher, basis = shared
    request = Request(budget=Budget.parse(budget), base=base, basis=basis, device="cpu", **given)
    return fitted_or_read(load_source(teacher, request), request, CPU, room=60)


def rests(beginning: Beginning) -> set[tuple[str, str]]:
    return {(name, role) for name in beginning.tensors.modules if beginning.coder.sites[name].frame for role in "UV"}


def test_few_bytes_keep_to_the_frames_of_both_sides(
    shared: tuple[Path, Adapter, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_frames, "_SHARE", 7.0)
    few, many = begun(shared, FEW), begun(shared, MANY)
    assert few.tensors.held == rests(few) != set()
    assert not any(bool(few.tensors.modules[name][role].any()) for name, role in few.tensors.held)
    assert all(bool(own["D"].any()) for name, own in few.tensors.modules.items() if few.coder.sites[name].frame)
    monkeypatch.setattr(in_frames, "_SHARE", 0.0)
    assert not begun(shared, FEW).tensors.held
    assert many.plan.config == few.plan.config == {"sides": 2}


def test_training_stays_within_the_frames(
    shared: tuple[Path, Adapter, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_frames, "_SHARE", 7.0)
    base, teacher, basis = shared
    given: dict[str, Any] = {"base": base, "basis": basis, "data": texts(), "schedule": SHORT, "device": "cpu"}
    made = distill(None, tmp_path / "a.adz", teacher=teacher, budget=FEW, **given)
    assert writer.size(made.compressed) <= 545
    known = read_basis(basis).modules
    for name, module in reconstruct(made.compressed, basis=basis).modules.items():
        if module.rank:
            U, V = known[name].U.double(), known[name].V.double()
            A, B = module.A.double(), module.B.double()
            assert torch.allclose(A @ V @ V.T, A, atol=1e-5 * float(A.abs().max()))
            assert torch.allclose(U @ (U.T @ B), B, atol=1e-5)
    again = fitted_or_read(tmp_path / "a.adz", Request(base=base, basis=basis, device="cpu"), CPU)
    assert again.tensors.held == rests(again) != set()


def test_ranks_grow_in_both_frames(shared: tuple[Path, Adapter, Path]) -> None:
    beginning = begun(shared, MANY, allocate=GROWING)
    growth, coder = beginning.growth, beginning.coder
    assert growth is not None
    name, own = next((n, t) for n, t in beginning.tensors.modules.items() if coder.sites[n].frame)
    full, basis = growth.full.modules[name], coder.basis_tensors(name)
    rank = len(full["D"]) - 1
    own = {role: tensor[:rank] for role, tensor in own.items()}
    grown = coder.method.grown(own, full, coder.sites[name], rank, coder.config)
    assert {role: len(tensor) for role, tensor in grown.items()} == dict.fromkeys("DUCV", rank + 1)
    before, after = (
        coder.method.reconstruct({**basis, **tensors}, coder.sites[name], coder.config) for tensors in (own, grown)
    )
    assert torch.allclose(before[1] @ before[0], after[1] @ after[0], atol=1e-6)
    assert bool(grown["D"][rank].any())
