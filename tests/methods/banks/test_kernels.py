"""The compiled search for pairs gives the bits of the plain one."""

from __future__ import annotations

import pytest
import torch

from adaptzip.core import compiled
from adaptzip.methods._banks import choosing
from adaptzip.methods._banks.choosing import choose_codes
from adaptzip.methods._banks.mixing import mix

pytest.importorskip("numba")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("h", [2, 3, 63, 64, 65, 300])
@pytest.mark.parametrize("length", [1, 2, 40])
def test_pairs_are_those_of_the_plain_search(h: int, length: int) -> None:
    bank, pieces = random(h, length), random(200, length, seed=1)
    gram, products = bank @ bank.T, pieces @ bank.T
    found, plain = choosing._pairs(gram, products), mix(gram, products, 2)
    assert torch.equal(found.indices, plain.chosen)
    assert torch.equal(found.weights, plain.weights)


@pytest.mark.parametrize("spread", [0, 1])
def test_of_vectors_that_serve_alike_both_take_the_first(spread: int) -> None:
    bank = (random(150, 3).round().clamp(-1, 1)) * spread
    pieces = random(100, 3, seed=1).round()
    gram, products = bank @ bank.T, pieces @ bank.T
    found, plain = choosing._pairs(gram, products), mix(gram, products, 2)
    assert torch.equal(found.indices, plain.chosen)
    assert torch.equal(found.weights, plain.weights)
    assert bool((found.indices[:, 0] != found.indices[:, 1]).all())


def test_codes_are_the_same_without_numba(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_WORTHWHILE", 0)
    bank, rows = random(40, 6), random(3, 4, 50, seed=1)
    quick = choose_codes(bank, rows, 2, 64)
    request.getfixturevalue("without_numba")
    monkeypatch.setattr(choosing, "_pairs", None)
    plain = choose_codes(bank, rows, 2, 64)
    assert torch.equal(quick.indices, plain.indices)
    assert torch.equal(quick.weights, plain.weights)
