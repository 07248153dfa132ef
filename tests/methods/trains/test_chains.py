"""Shapes of chains, and fitting them to updates."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adaptzip.methods._trains import chain_shape, contract, sweep, tt_svd
from adaptzip.methods._trains.chains import Half, largest_rank
from adaptzip.methods._trains.ladders import ladder
from adaptzip.methods._trains.updates import Chain, fit_chain, frame_of, next_core, pseudo_inverse, right_rows

WIDTHS = st.sampled_from((1, 2, 5, 12, 17, 24, 34, 48, 64, 96, 120))


def update(n: int, out: int, width: int, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """B (n, out, k) = U S and W (n, in, k) = V of n updates, float64."""
    generator = torch.Generator().manual_seed(seed)
    k = min(out, width, rank)
    U = torch.linalg.qr(torch.randn(n, out, k, generator=generator, dtype=torch.float64))[0]
    V = torch.linalg.qr(torch.randn(n, width, k, generator=generator, dtype=torch.float64))[0]
    return U * 0.7 ** torch.arange(k, dtype=torch.float64), V


def dense(chain: Chain) -> Tensor:
    return contract(chain.out) @ contract(chain.width).mT


def test_shapes_at_low_ranks_are_those_of_plain_trains() -> None:
    shape = chain_shape(768, 768, 5, 8)
    assert shape.out == Half((12, 8, 8), (5, 5, 5))
    assert shape.out.shapes == ((1, 12, 5), (5, 8, 5), (5, 8, 5))
    assert shape.numbers == 2 * (60 + 200 + 200)


def test_the_lora_rank_stays_whole_in_rep() -> None:
    assert chain_shape(768, 768, 5, 8, whole=True).middle == 8
    assert chain_shape(768, 768, 1, 16, whole=True).middle == 8, "no more than the last core can span"


def test_cores_that_save_nothing_are_stored_as_one() -> None:
    assert chain_shape(768, 768, 16, 8).out == Half((96, 8), (16, 8))
    assert chain_shape(768, 768, 64, 8).out == Half((768,), (8,))


@settings(deadline=None, max_examples=80)
@given(WIDTHS, WIDTHS, st.integers(1, 20), st.integers(1, 12), st.booleans())
def test_every_chain_is_possible(out: int, width: int, rank: int, middle: int, whole: bool) -> None:
    shape = chain_shape(out, width, rank, middle, whole=whole)
    assert shape.out.ranks[-1] == shape.width.ranks[-1]
    for half, side in ((shape.out, out), (shape.width, width)):
        assert prod(half.modes) == side
        for left, mode, right in half.shapes:
            assert right <= left * mode
    assert max((*shape.out.ranks[:-1], *shape.width.ranks[:-1]), default=0) <= rank
    assert whole or shape.middle <= rank


@settings(deadline=None, max_examples=40)
@given(WIDTHS, WIDTHS, st.integers(1, 9), st.booleans())
def test_the_largest_rank_cuts_nothing(out: int, width: int, middle: int, whole: bool) -> None:
    steps = ladder(out, width, middle, whole=whole)
    assert len(steps.shapes) <= largest_rank(out, width, middle)
    assert (steps.numbers[1:] >= steps.numbers[:-1]).all()
    B, W = update(2, out, width, middle)
    chain = fit_chain(B, W, steps.shapes[-1])
    torch.testing.assert_close(dense(chain), B @ W.mT, atol=1e-9, rtol=0)


@settings(deadline=None, max_examples=40)
@given(WIDTHS, WIDTHS, st.integers(1, 8), st.integers(1, 6), st.booleans(), st.integers(0, 9))
def test_energy_is_what_the_error_leaves(out: int, width: int, rank: int, middle: int, whole: bool, seed: int) -> None:
    B, W = update(2, out, width, middle, seed)
    delta = B @ W.mT
    energies = []
    for sweeps in (0, 1, 4):
        chain = fit_chain(B, W, chain_shape(out, width, rank, middle, whole=whole), sweeps=sweeps)
        error = (delta - dense(chain)).square().sum((1, 2))
        torch.testing.assert_close(chain.energy, delta.square().sum((1, 2)) - error, atol=1e-9, rtol=0)
        energies.append(chain.energy)
    assert (energies[1] >= energies[0] - 1e-9).all(), "a sweep never increases the error"
    assert (energies[2] >= energies[1] - 1e-9).all()


def test_sweeps_improve_on_tt_svd() -> None:
    generator = torch.Generator().manual_seed(3)
    tensors = torch.randn(2, 6 * 5 * 4 * 6, generator=generator, dtype=torch.float64)
    cores = tt_svd(tensors, (6, 5, 4, 6), 2)
    before = [core.clone() for core in cores]
    errors = []
    for _ in range(4):
        errors.append((tensors - contract(cores)[:, :, 0]).norm(dim=1))
        cores = sweep(tensors, cores)
    assert all((b <= a + 1e-12).all() for a, b in zip(errors, errors[1:], strict=False))
    assert (errors[-1] < 0.999 * errors[0]).all()
    for core in cores[:-1]:
        columns = core.flatten(1, 2)
        torch.testing.assert_close(columns.mT @ columns, torch.eye(columns.shape[2]).double().expand(2, -1, -1))
    assert all(torch.equal(a, b) for a, b in zip(before, tt_svd(tensors, (6, 5, 4, 6), 2), strict=True))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("rank", [2, 5, 64])
def test_cores_fitted_one_after_the_other_give_the_chain(whole: bool, rank: int) -> None:
    """With nothing rounded, the cores that are asked for in turn are as good as the fitted chain."""
    B, W = update(1, 48, 60, 4)
    shape = chain_shape(48, 60, rank, 4, whole=whole)
    chain = fit_chain(B, W, shape, sweeps=2)
    frame = frame_of(B, W, chain)
    out: list[Tensor] = []
    for i, (left, mode, right) in enumerate(shape.out.shapes):
        core = next_core(frame.projected, out, frame.out[i:], mode)
        norms = core.norm(dim=1)
        assert (norms[:, :-1] >= norms[:, 1:] - 1e-9).all(), "directions fall in energy"
        out.append(torch.nn.functional.normalize(core, dim=1).reshape(1, left, mode, right))
    projected = W @ (pseudo_inverse(contract(out)) @ B).mT
    width: list[Tensor] = []
    for i, (left, mode, right) in enumerate(shape.width.shapes):
        core = next_core(projected, width, right_rows(projected, frame.width)[i:], mode)
        last = i == len(shape.width.modes) - 1
        width.append((core if last else torch.nn.functional.normalize(core, dim=1)).reshape(1, left, mode, right))
    delta = B @ W.mT
    error = float((delta - contract(out) @ contract(width).mT).norm())
    assert error <= float((delta - dense(chain)).norm()) + 1e-6


def test_columns_that_are_zero_or_alike_have_an_inverse() -> None:
    columns = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    inverse = pseudo_inverse(columns)
    assert torch.isfinite(inverse).all()
    torch.testing.assert_close(columns @ inverse @ columns, columns)
