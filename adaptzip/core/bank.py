"""A bank of vectors that many compressed adapters share, as its file holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptzip.core.showing import Shown
from adaptzip.core.words import count

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BankShape:
    """How adapters are coded with a bank.

    Attributes:
        rank: the most rows that a factor may have.
        length: b, numbers in a vector.
        vectors: h, vectors in the bank, of which the last is zero.
        top_k: k, vectors in a mixture.
        levels: weights of a mixture are multiples of 1 / levels.
    """

    rank: int
    length: int
    vectors: int
    top_k: int
    levels: int


@dataclass(frozen=True, eq=False, repr=False)
class Bank(Shown):
    """A bank.

    Attributes:
        vectors: (h, length), float32, exactly as a reader decodes them.
        shape: how adapters are coded with it.
        step: the quantiser step of the vectors.
        chunk: the vectors, coded.
    """

    vectors: Tensor
    shape: BankShape
    step: float
    chunk: bytes

    def _told(self) -> Iterator[str]:
        yield f"{count(self.shape.vectors, 'vector')} of {self.shape.length}"
        yield f"{self.shape.top_k} to a piece"
        yield f"rank {self.shape.rank}"
