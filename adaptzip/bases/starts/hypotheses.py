"""Where a module's A may stand in the stream of a seed that nobody knows, and what that says of the seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adaptzip.bases.starts.candidates import Candidate, candidates, first_of_kinds
from adaptzip.bases.starts.generators import BLOCK, NORMAL, UNIFORM
from adaptzip.bases.starts.parities import parities
from adaptzip.core.adapter import LoraFactors

PARITIES = 64
"""Bits of a seed's numbers that are looked at, the most telling first."""
_KINDS = 8
_HEADS = 4
_TOP = 1 << 23
_TELLING = 2.2
"""A uniform number is at most twice the median magnitude: what is far beyond has been moved."""


@dataclass(frozen=True)
class Hypothesis:
    """A module, a generator, and numbers of the stream before the module's A."""

    module: str
    generator: str
    offset: int


def predicted(modules: Mapping[str, LoraFactors], before: Sequence[int] = (0,)) -> list[Hypothesis]:
    """The places of the first module of a model, as PEFT and those that draw like it make adapters.

    Which module is first is not known: one of each kind is supposed to be.

    Args:
        before: numbers that were drawn before the adapter was made, each to be tried; see `drawn_before`.
    """
    found = []
    for one in first_of_kinds(candidates(modules))[:_KINDS]:
        layers = one.size + one.A.shape[0] * one.out
        for generator in (UNIFORM, NORMAL):
            if generator in one.looks():
                found += [Hypothesis(one.names[0], generator, drawn + layers) for drawn in before]
    return found


def drawn_before(extras: Mapping[str, Tensor]) -> list[int]:
    """Numbers that a new head of an adapter may have drawn before it was made, for `predicted`; 0 first.

    Args:
        extras: of the adapter; heads are among the matrices in it.
    """
    sizes = sorted({one.numel() for one in extras.values() if one.ndim == 2 and one.is_floating_point()})
    return [0, *sizes[:_HEADS]]


def evidence(one: Candidate, hypothesis: Hypothesis) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Parities of the seeded state (PARITIES, 624) that follow from a module's A, and what they are expected to be.

    The sign of a uniform number is the highest of its 24 bits. Of a normal one's angle the two highest are the signs:
    of the sine the first, of the cosine the sum of both.
    """
    values = one.probe.numpy()
    telling = np.abs(values)
    if hypothesis.generator == UNIFORM:
        telling = np.where(telling > _TELLING, 0, telling)
    chosen = np.argsort(-telling, kind="stable")[:PARITIES]
    negative = values[chosen] < 0
    if hypothesis.generator == UNIFORM:
        outputs, masks, expected = chosen, np.full(len(chosen), _TOP), ~negative
    else:
        cosine = chosen % BLOCK < BLOCK // 2
        outputs = np.where(cosine, chosen + BLOCK // 2, chosen)
        masks, expected = np.where(cosine, _TOP | _TOP >> 1, _TOP), negative
    return parities((outputs + hypothesis.offset).tolist(), masks.tolist()), expected.astype(np.int64)
