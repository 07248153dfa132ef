"""Small whole numbers that lie one after another in 32-bit words, the lowest bits first."""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 32


def unpacked(words: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` numbers of each row of int32 words, (rows, count), int32 from 0 to 2**bits - 1.

    A number may begin in one word and end in the next.
    """
    mask = (1 << bits) - 1
    if WORD % bits == 0:
        shifts = torch.arange(0, WORD, bits, dtype=torch.int32)
        return ((words[:, :, None] >> shifts) & mask).flatten(1)[:, :count]
    starts = torch.arange(count) * bits
    place, shift = starts // WORD, starts % WORD
    wide = torch.nn.functional.pad(words.to(torch.int64) & 0xFFFFFFFF, (0, 1))
    return (((wide[:, place] >> shift) | (wide[:, place + 1] << (WORD - shift))) & mask).to(torch.int32)


def words_of(first: int, last: int, bits: int) -> tuple[int, int, int]:
    """The words that hold the numbers from `first` to before `last`: the first, past the last, and the number with
    which the first word begins."""
    begin = first // WORD * WORD
    return begin * bits // WORD, -(-last * bits // WORD), begin
