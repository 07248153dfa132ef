"""adaptzip's starts and frames against those that were written from formats/starts-1.md, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adaptzip.bases.starts.generators import FREE_DRAWS, Place, check_start, matrices
from adaptzip.core.frames import frame, whole_rows
from adaptzip.errors import FormatError
from formats import decoder_starts as other
from formats.decoder_starts import BrokenStart, Module

PLACES = {"even": (3, 4, 40), "tail": (600, 3, 37), "shared": (3, 4, 40), "slice": (83, 2, 40), "late": (2000, 1, 16)}
REFUSED = [
    ("philox", 0, (0, 4, 40)),
    ("uniform", 2**64, (0, 4, 40)),
    ("uniform", 0, (-1, 4, 40)),
    ("uniform", 0, (0, 0, 40)),
    ("uniform", 0, (0, 5, 4)),
    ("uniform", 0, (0, 1, 2**16)),
    ("uniform", 0, (0, 1025, 2000)),
    ("uniform", 0, (FREE_DRAWS + 15 * 160 + 1, 4, 40)),
    ("normal", 0, (0, 3, 5)),
    ("normal", 0, (FREE_DRAWS + 15 * 111 - 15, 3, 37)),
    ("mlx", 0, (65537, 4, 40)),
]


@pytest.mark.parametrize("seed", [0, 42, 2**32 + 9, 2**64 - 1])
@pytest.mark.parametrize("generator", ["uniform", "normal", "mlx"])
def test_both_make_the_same_matrices_and_frames(generator: str, seed: int) -> None:
    ours = dict(matrices(generator, seed, {name: Place(*place) for name, place in PLACES.items()}))
    theirs = other.start_matrices(generator, seed, {name: Module(*place) for name, place in PLACES.items()})
    assert ours.keys() == theirs.keys()
    for name, numbers in ours.items():
        assert np.array_equal(numbers, theirs[name])
        assert frame(numbers).numpy().tobytes() == other.frame(theirs[name]).tobytes()


def test_both_make_the_same_frames_of_references() -> None:
    A = torch.randn(9, 700, generator=torch.Generator().manual_seed(2)) * torch.logspace(-20, 20, 9)[:, None]
    A[3] = A[2] + 1e-3 * A[2].abs().max() * torch.randn(700, generator=torch.Generator().manual_seed(3))
    ours, theirs = whole_rows(A), other.reference_matrix(A.numpy())
    assert np.array_equal(ours, theirs)
    assert frame(ours).numpy().tobytes() == other.frame(theirs).tobytes()


@pytest.mark.parametrize(("generator", "seed", "place"), REFUSED)
def test_both_refuse_the_same_starts(generator: str, seed: int, place: tuple[int, int, int]) -> None:
    with pytest.raises(FormatError):
        check_start(generator, seed, {"a": Place(*place)})
    with pytest.raises(BrokenStart):
        other.check_limits(generator, seed, {"a": Module(*place)})


@pytest.mark.parametrize(
    "numbers", [[[1, 2, 3], [2, 4, 6]], [[4096, 0], [4096, 1]], [[2**23 + 1, 0]], [[1], [2]]], ids=repr
)
def test_both_refuse_the_same_frames(numbers: list[list[int]]) -> None:
    with pytest.raises(FormatError):
        frame(np.array(numbers))
    with pytest.raises(BrokenStart):
        other.frame(np.array(numbers))


def test_both_accept_the_last_place() -> None:
    for generator, offset in (("uniform", FREE_DRAWS + 15 * 111), ("normal", FREE_DRAWS + 15 * 111 - 16)):
        check_start(generator, 0, {"a": Place(offset, 3, 37)})
        other.check_limits(generator, 0, {"a": Module(offset, 3, 37)})
