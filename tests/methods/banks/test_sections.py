"""What banks are searched by."""

from __future__ import annotations

import pytest
import torch

from adaptzip.methods._banks.choosing import choose_codes
from adaptzip.methods._banks.sections import LastSections, nearest_in, sections


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_tree_finds_the_nearest_vector(length: int) -> None:
    bank, pieces = random(500, length), random(300, length, seed=1)
    tree = sections(bank, (6,), 1)[length].tree
    assert tree is not None
    away = torch.cdist(pieces.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(nearest_in(tree, pieces), away.argmin(1))


def test_long_vectors_and_mixtures_are_searched_by_products() -> None:
    assert sections(random(500, 8), (16,), 1)[8].tree is None
    found = sections(random(500, 2), (16,), 2)[2]
    assert found.tree is None
    assert found.gram is not None


def test_pieces_that_overflowed_get_some_vector() -> None:
    bank = random(200, 2)
    pieces = torch.tensor([[float("inf"), 0.0], [float("nan"), 1.0]])
    codes = choose_codes(bank, pieces, 1)
    assert bool(((codes.indices >= 0) & (codes.indices < 200)).all())


@pytest.mark.parametrize(("width", "sizes"), [(12, {4}), (14, {2, 4}), (3, {3})])
def test_rows_are_cut_into_whole_pieces_and_a_rest(width: int, sizes: set[int]) -> None:
    assert sections(random(9, 4), (width,), 2).keys() == sizes


def test_the_sections_of_the_last_bank_are_made_once() -> None:
    last, stored = LastSections(), random(9, 4)
    bank, first = last.of(stored, 2.0, 12, 2)
    assert torch.equal(bank, stored / 2)
    _, more = last.of(stored, 2.0, 14, 2)
    assert more[4] is first[4]
    assert more.keys() == {2, 4}
    assert last.of(stored.clone(), 2.0, 12, 2)[1][4] is not first[4]
