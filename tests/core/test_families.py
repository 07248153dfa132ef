"""What a family of methods has without saying so: bounds of ranks, and ranks that grow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.trainable import Trainable
from adaptzip.errors import UsageError

SITE = Site(3, 2)


@dataclass(frozen=True)
class Config:
    """No options."""


class Rows(Trainable[Config]):
    """A row of each side for each unit of rank, and directions of both."""

    name = "rows"
    version = 1
    summary = paper = ""
    config_type = Config
    roles = ("U", "D")
    grows = True

    def layout(self, site: Site, rank: int, config: Config) -> tuple[TensorSpec, ...]:
        return (TensorSpec("U", rank, site.out), TensorSpec("D", rank, site.width, directions=True))

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> tuple[Tensor, Tensor]:
        return tensors["D"], tensors["U"].T


class Fixed(Rows):
    """The same, of fixed ranks."""

    grows = False


def test_a_rank_is_bounded_by_the_shorter_side_and_the_factors_have_it() -> None:
    assert Rows().max_rank(Site(3, 2), Config()) == Rows().max_rank(Site(2, 5), Config()) == 2
    assert Rows().factor_rank(SITE, 2, Config()) == 2
    assert Rows().shared_layout(Config()) == ()


FULL = {"U": torch.ones(4, 3) * 7, "D": torch.arange(8.0).reshape(4, 2)}


def test_a_unit_of_rank_is_added_as_zeros_and_as_directions_of_the_full_rank() -> None:
    tensors = {"U": torch.tensor([[1.0, 2.0, 3.0]]), "D": torch.tensor([[5.0, 6.0]])}
    found = Rows().grown(tensors, FULL, SITE, 1, Config())
    assert found["U"].tolist() == [[1, 2, 3], [0, 0, 0]]
    assert found["D"].tolist() == [[5, 6], [2, 3]]
    A, B = Rows().reconstruct(found, SITE, Config())
    before = Rows().reconstruct(tensors, SITE, Config())
    assert torch.equal(B @ A, before[1] @ before[0])
    assert FULL["D"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_the_first_unit_of_rank_grows_from_nothing() -> None:
    found = Rows().grown({}, FULL, SITE, 0, Config())
    assert found["U"].tolist() == [[0, 0, 0]]
    assert found["D"].tolist() == [[0, 1]]


def test_what_does_not_grow_says_so() -> None:
    assert not Trainable.grows
    with pytest.raises(UsageError, match="the ranks of method 'rows' can't grow"):
        Fixed().grown({}, FULL, SITE, 0, Config())


def test_what_selects_nothing_has_nothing_to_soften() -> None:
    tensors = {"U": torch.ones(1, 3)}
    assert Rows().soften(tensors, SITE, Config()) == {}
    assert Rows().relaxed({}, SITE, Config()) == {}
    assert Rows().harden({}, SITE, Config()) == {}
