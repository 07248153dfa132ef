"""Cutting rows into pieces, and putting them together."""

from __future__ import annotations

import pytest
import torch

from adaptzip.methods._banks.codes import Codes, cut, decode, on_levels, piece_count


@pytest.mark.parametrize(("width", "length", "count"), [(12, 4, 3), (13, 4, 4), (3, 8, 1), (1, 1, 1)])
def test_pieces_cover_a_row(width: int, length: int, count: int) -> None:
    rows = torch.arange(2.0 * width).reshape(2, width)
    whole, rest = cut(rows, length)
    assert piece_count(width, length) == count
    assert whole.shape[1] + (rest is not None) == count
    together = whole.flatten(1) if rest is None else torch.cat([whole.flatten(1), rest], 1)
    assert torch.equal(together, rows)


def test_a_row_is_the_mixtures_of_its_pieces_cut_to_its_width() -> None:
    bank = torch.tensor([[1.0, 2.0], [3.0, 4.0], [-1.0, 0.0]])
    codes = Codes(torch.tensor([[[0, 1], [2, 1]]]), torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]))
    assert decode(bank, codes, 3).tolist() == [[2.5, 3.5, 1.0]]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("levels", [2, 64])
def test_weights_on_levels_add_up_to_one_with_the_largest_last(k: int, levels: int) -> None:
    weights = torch.distributions.Dirichlet(torch.ones(k)).sample((200,)) if k > 1 else torch.ones(200, 1)
    codes = on_levels(Codes(torch.arange(200 * k).reshape(200, k), weights), levels)
    whole = codes.weights * levels
    assert torch.equal(whole, whole.round())
    assert torch.equal(whole.sum(1), torch.full((200,), float(levels)))
    assert bool((codes.weights >= 0).all())
    assert bool((codes.weights[:, -1:] >= codes.weights).all())
    moved = codes.weights.gather(1, codes.indices.argsort(1))
    assert float((moved - weights).abs().max()) <= k / levels
