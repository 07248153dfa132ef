"""Ranks that grow while they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adaptzip import methods
from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.distillation.distilling import finish
from adaptzip.distillation.loop import first_state, train
from adaptzip.distillation.preparing import DataOptions, Setup, prepare
from adaptzip.distillation.tensors import Tensors
from adaptzip.distillation.trainable import as_trainable
from adaptzip.errors import UsageError
from adaptzip.fitting.requests import Request
from tests.cases import tiny_peft
from tests.cases.linear_factors import linear_factors
from tests.cases.teachers import SHORT, basis_for, teacher_of, unlabelled

GROWING = [name for name in methods.fittable() if as_trainable(methods.load(name)).grows]


def setup_of(base: Path, teacher: Adapter, method: str, **given: Any) -> Setup:
    given |= basis_for(method, teacher, base.parent / "teacher.basis")
    request = Request(method, Budget.parse(given.pop("budget", "1200")), base=base, device="cpu", **given)
    return prepare(
        None,
        teacher=teacher,
        base=base,
        data=unlabelled(),
        request=request,
        schedule=SHORT,
        options=DataOptions(),
    )


def count(tensors: Tensors) -> int:
    return sum(tensor.numel() for _, tensor in tensors.items())


@pytest.fixture
def causal(tmp_path: Path) -> tuple[Path, Adapter]:
    return teacher_of(tiny_peft.llama, tmp_path, "q_proj", "down_proj")


@pytest.mark.parametrize("method", GROWING)
def test_ranks_grow_to_the_numbers_of_the_fit(causal: tuple[Path, Adapter], method: str) -> None:
    setup = setup_of(*causal, method, allocate="increlora")
    growth, tensors = setup.beginning.growth, setup.problem.tensors
    assert growth is not None
    assert count(growth.first) < count(tensors) <= growth.numbers == count(setup.beginning.tensors)
    assert all(growth.first.ranks[name] <= rank <= growth.full.ranks[name] for name, rank in tensors.ranks.items())
    # What is left is not enough for any further unit.
    method_, coder = setup.problem.coder.method, setup.problem.coder
    for name, rank in tensors.ranks.items():
        sizes = [sum(s.numbers for s in method_.layout(coder.sites[name], r, coder.config)) for r in (rank, rank + 1)]
        full = rank == growth.full.ranks[name]
        assert full or count(tensors) + sizes[1] - sizes[0] > growth.numbers
    again = setup_of(*causal, method, allocate="increlora").problem.tensors
    assert again.ranks == tensors.ranks
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(tensors.items(), again.items(), strict=True))


@pytest.mark.parametrize("method", GROWING)
def test_a_new_unit_changes_nothing_and_can_be_trained(causal: tuple[Path, Adapter], method: str) -> None:
    setup = setup_of(*causal, method, allocate="increlora")
    growth, coder = setup.beginning.growth, setup.problem.coder
    assert growth is not None
    name = next(n for n, rank in growth.first.ranks.items() if rank < growth.full.ranks[n])
    rank, own = growth.first.ranks[name], growth.first.modules[name]
    new = coder.method.grown(own, growth.full.modules[name], coder.sites[name], rank, coder.config)
    leaves = {role: tensor.clone().requires_grad_() for role, tensor in new.items()}
    found = []
    for tensors, r in ((own, rank), (leaves, rank + 1)):
        A, B = linear_factors(coder, {}, Tensors(growth.first.shared, {name: tensors}, {name: r}))[name]
        found.append(B @ A)
    torch.testing.assert_close(*found)
    generator = torch.Generator().manual_seed(0)
    torch.autograd.backward((found[1] * torch.randn(found[1].shape, generator=generator)).sum())
    for role, leaf in leaves.items():
        assert leaf.grad is not None
        added = leaf.grad.flatten()[own[role].numel() if role in own else 0 :]
        layout = coder.method.layout(coder.sites[name], rank + 1, coder.config)
        # Directions move as soon as something stands on them.
        if not next(spec for spec in layout if spec.role == role).directions:
            assert bool((added != 0).all())


def test_grown_ranks_are_trained_and_written(causal: tuple[Path, Adapter]) -> None:
    setup = setup_of(*causal, methods.REFERENCE, allocate="increlora")
    state = first_state(setup.problem, setup.beginning.step)
    train(setup.problem, setup.schedule, state, setup.machines, save=lambda _: None, report=lambda _: None)
    made = finish(setup, state)
    # Ranks that grew for few steps do worse than the fit; the better of both is what is written.
    assert (made.rows["distilled"].kl or 0.0) <= (made.rows["fitted"].kl or 0.0)
    kept = {n for n, chunk in zip(made.compressed.sites, made.compressed.chunks, strict=True) if chunk}
    assert kept == set(setup.problem.tensors.ranks)
    assert made.compressed.provenance.parameters == count(setup.problem.tensors)
    assert writer.size(made.compressed) <= setup.beginning.limit


@pytest.mark.parametrize("method", [name for name in methods.fittable() if name not in GROWING])
def test_methods_whose_ranks_can_not_grow(causal: tuple[Path, Adapter], method: str) -> None:
    with pytest.raises(UsageError, match=f"^the ranks of method '{method}' can't grow while it is trained$"):
        setup_of(*causal, method, allocate="increlora", budget="1500")


def test_scores_decide_where_ranks_grow(causal: tuple[Path, Adapter], monkeypatch: pytest.MonkeyPatch) -> None:
    from adaptzip.distillation import growing

    setup = setup_of(*causal, methods.REFERENCE, allocate="increlora")
    growth = setup.beginning.growth
    assert growth is not None
    names = [name for name, rank in growth.first.ranks.items() if rank < growth.full.ranks[name]]
    for best in (names[0], names[-1]):
        grower = growing._Grower(setup.problem.coder, growth, growth.first)
        grower.scores = {name: growing._Score(1.0, 2.0 if name == best else 1.0) for name in names}
        grower.grow(count(growth.first) + 1)
        assert {n for n, rank in grower.tensors.ranks.items() if rank > growth.first.ranks[n]} == {best}
