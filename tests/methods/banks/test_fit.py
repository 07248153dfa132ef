"""Fitting banks: every step for itself, and the whole."""

from __future__ import annotations

import pytest
import torch

from adaptzip.methods._banks.choosing import choose_codes
from adaptzip.methods._banks.factors import Coded, Group, groups, recode, squared_errors, start
from adaptzip.methods._banks.fit import BankFit, Shape, fit_bank
from adaptzip.methods._banks.lloyd import first_bank, lloyd, pieces_of
from adaptzip.methods._banks.refining import decoded, exposures, refine
from adaptzip.methods._banks.seeding import seed_bank
from adaptzip.testing.adapters import adapter
from tests.methods.banks.planted import planted

CPU = torch.device("cpu")
SHAPES = [(40, 24, 6), (24, 40, 4), (40, 24, 6), (33, 17, 1)]


def grouped(rank: int = 2, weights: dict[str, float] | None = None) -> list[Group]:
    modules = adapter(SHAPES, seed=4).modules
    return list(groups(modules, dict.fromkeys(modules, rank), weights or {}, CPU))


def relative(found: list[Group], fit: BankFit) -> float:
    energy = sum(float(group.energy.sum()) for group in found)
    return sum(float(error.sum()) for error in fit.errors) / energy


def total(found: list[Group], coded: list[Coded], bank: torch.Tensor) -> float:
    pairs = zip(found, coded, strict=True)
    return sum(float((squared_errors(g, *decoded(g, c, bank)) * g.weight).sum()) for g, c in pairs)


def test_seeds_are_different_pieces_and_heavy_ones_come_first() -> None:
    pieces = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    weights = torch.ones(50)
    weights[7] = 1e9
    bank = seed_bank(pieces, weights, 20, torch.Generator().manual_seed(0))
    assert len({tuple(row) for row in bank.tolist()}) == 20
    assert bank[0].tolist() == pieces[7].tolist()


def test_there_may_be_more_vectors_than_pieces() -> None:
    bank = seed_bank(torch.eye(3), torch.ones(3), 8, torch.Generator().manual_seed(0))
    assert bank.shape == (8, 3)
    assert {tuple(row) for row in bank.tolist()} == {tuple(row) for row in torch.eye(3).tolist()}


def test_the_first_gauge_gives_the_update_with_equal_mean_squares() -> None:
    for group in grouped(rank=6):
        A, B = start(group)
        assert float(squared_errors(group, A, B).max()) < 1e-10
        assert torch.allclose(A.square().mean(2), B.square().mean(2), rtol=1e-4)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_exact_steps_on_pieces_never_raise_the_error(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pieces = pieces_of(grouped(), 7)
    bank = first_bank(pieces, 7, 9, generator)
    errors = [error for _, error in lloyd(pieces, bank, k, 12, 0.0)]
    assert len(errors) > 3
    assert all(after <= before * (1 + 1e-5) for before, after in zip(errors, errors[1:], strict=False))
    assert errors[-1] < 0.95 * errors[0]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_codes_and_gradient_steps_never_raise_the_error_of_the_update(k: int) -> None:
    found = grouped(weights={"m.1": 5.0})
    bank = first_bank(pieces_of(found, 5), 5, 12, torch.Generator().manual_seed(0))
    coded = []
    for group in found:
        A, B = start(group)
        coded.append(Coded(choose_codes(bank, A, k), choose_codes(bank, B, k)))
    errors = [total(found, coded, bank)]
    for _ in range(2):
        coded = [Coded(recode(g.A, decoded(g, c, bank)[1], bank, c.A), c.B) for g, c in zip(found, coded, strict=True)]
        errors.append(total(found, coded, bank))
        coded = [Coded(c.A, recode(g.B, decoded(g, c, bank)[0], bank, c.B)) for g, c in zip(found, coded, strict=True)]
        errors.append(total(found, coded, bank))
        bank = refine(found, coded, bank, 5)
        errors.append(total(found, coded, bank))
    assert all(after <= before * (1 + 1e-5) for before, after in zip(errors, errors[1:], strict=False))
    assert errors[-1] < 0.95 * errors[0]


@pytest.mark.parametrize(("length", "rank"), [(4, 1), (4, 2), (6, 1)])
def test_a_planted_codebook_is_found(length: int, rank: int) -> None:
    modules = planted([(24, 36, rank), (48, 24, rank), (36, 36, rank)], 6, length, 1, seed=2)
    found = list(groups(modules, dict.fromkeys(modules, rank), {}, CPU))
    # Every module may have the planted pieces in a gauge of its own: signs, scales and turns.
    fit = fit_bank(found, Shape(60 if rank > 1 else 40, length, 1, 64), 0)
    assert relative(found, fit) < (1e-2 if rank > 1 else 1e-6)


def test_a_planted_mixture_is_found() -> None:
    modules = planted([(48, 48, 1)], 3, 12, 2, seed=5)
    found = list(groups(modules, dict.fromkeys(modules, 1), {}, CPU))
    assert relative(found, fit_bank(found, Shape(8, 12, 2, 2**16), 0)) < 1e-6


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize(("rank", "length"), [(1, 4), (2, 7), (3, 64)])
def test_any_shape_can_be_fitted(k: int, rank: int, length: int) -> None:
    found = grouped(rank)
    fit = fit_bank(found, Shape(10, length, k, 64), 0)
    assert fit.bank.shape == (10, length)
    assert bool(fit.bank.isfinite().all())
    assert relative(found, fit) < 0.95
    for group, coded, errors in zip(found, fit.coded, fit.errors, strict=True):
        A, B = decoded(group, coded, fit.bank)
        dense = group.U * group.S[:, None] @ group.V.mT - B.mT @ A
        assert torch.allclose(errors, dense.double().square().sum((1, 2)), rtol=1e-3)


def test_more_vectors_and_larger_mixtures_err_less() -> None:
    found = grouped()
    errors = [relative(found, fit_bank(found, Shape(h, 4, 1, 64), 0)) for h in (4, 16, 64)]
    assert errors[0] > errors[1] > errors[2]
    mixed = [relative(found, fit_bank(found, Shape(8, 8, k, 64), 0)) for k in (1, 2, 3)]
    assert mixed[0] > mixed[1] > mixed[2]


def test_a_seed_gives_the_same_bank_every_time() -> None:
    found = grouped()
    first, second, other = (fit_bank(found, Shape(10, 6, 2, 64), seed) for seed in (3, 3, 4))
    assert torch.equal(first.bank, second.bank)
    assert not torch.equal(first.bank, other.bank)


def test_a_heavy_module_is_fitted_better() -> None:
    plain, heavy = grouped(), grouped(weights={"m.3": 100.0})
    errors = [fit_bank(found, Shape(6, 6, 1, 64), 0).errors for found in (plain, heavy)]
    place = next(i for i, group in enumerate(plain) if "m.3" in group.names)
    assert float(errors[1][place][0]) < 0.8 * float(errors[0][place][0])


def test_exposure_is_what_noise_in_the_bank_costs() -> None:
    found = grouped()
    fit = fit_bank(found, Shape(10, 5, 2, 64), 0)
    noise = 1e-3
    generator = torch.Generator().manual_seed(0)
    before = total(found, list(fit.coded), fit.bank)
    # Both signs of each noise, so that the slope of the error takes no part.
    noises = [sign * noise * some for some in torch.randn(400, 10, 5, generator=generator) for sign in (-1, 1)]
    rises = [total(found, list(fit.coded), fit.bank + some) - before for some in noises]
    expected = noise**2 * sum(float(e.sum()) for e in exposures(found, fit.coded, fit.bank))
    # Vectors that serve both factors of a module err together; that is the difference left.
    assert sum(rises) / len(rises) == pytest.approx(expected, rel=0.35)
