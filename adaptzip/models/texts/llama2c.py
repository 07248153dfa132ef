"""The tokeniser file of llama2.c."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

from adaptzip.errors import BaseModelError, RefusedError

_BOS = 1
_FIRST_BYTE = 3
"""In llama2.c's vocabularies ids 0 to 2 are <unk>, <s> and </s>, and the next 256 are single bytes."""
_NO_UNION = -inf


@dataclass(frozen=True, eq=False)
class Llama2cTokeniser:
    """Byte pair encoding as llama2.c does it: the neighbours whose union scores highest are joined first.

    Attributes:
        pieces: the bytes of every token, by id.
        scores: of every token.
        ids: the lowest id of each piece.
    """

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]
    ids: Mapping[bytes, int]

    def encode(self, text: str, most: int | None = None) -> list[int]:
        """<s>, then the text after one blank."""
        found = [i for character in f" {text}" for i in self._of_character(character.encode())]
        scores = [self._union(a, b) for a, b in pairwise(found)]
        while scores and (best := max(scores)) > _NO_UNION:
            place = scores.index(best)
            found[place : place + 2] = [self.ids[self.pieces[found[place]] + self.pieces[found[place + 1]]]]
            around = slice(max(place - 1, 0), place + 2)
            scores[around] = [self._union(a, b) for a, b in pairwise(found[around])]
        return [_BOS, *found][:most]

    def encode_target(self, text: str, most: int | None = None) -> list[int]:
        """As any text."""
        return self.encode(text, most)

    def encode_words(
        self, words: Sequence[str], most: int | None = None, *, listed: bool = True
    ) -> tuple[list[int], list[int], list[int | None]]:
        """Each word by itself, after one blank."""
        ids: list[int] = [_BOS]
        owners: list[int | None] = [None]
        for index, word in enumerate(words):
            part = self.encode(word)[1:]
            ids.extend(part)
            owners.extend([index] * len(part))
        return ids[:most], [], owners[:most]

    def encode_typed(self, text: str, pair: str | None = None, most: int | None = None) -> tuple[list[int], list[int]]:
        """Without types."""
        if pair is None:
            return self.encode(text, most), []
        raise RefusedError("the tokeniser of llama2.c has no form for pairs of texts", hint="give single texts")

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = False) -> list[int]:
        raise RefusedError("the tokeniser of llama2.c has no chat template", hint="give a prompt and a completion")

    def token(self, index: int) -> str:
        return self.pieces[index].decode(errors="replace")

    def decode(self, ids: Sequence[int]) -> str:
        """Without the blank that `encode` adds."""
        text = b"".join(self._bytes(i) for i in ids).decode(errors="replace")
        return text.removeprefix(" ")

    @property
    def size(self) -> int:
        """How many tokens there are."""
        return len(self.pieces)

    @property
    def start(self) -> int:
        return _BOS

    @property
    def end(self) -> int:
        """<s>: these models are trained on texts one after another, each after an <s>."""
        return _BOS

    @property
    def pad(self) -> None:
        """None."""
        return None

    def _bytes(self, token: int) -> bytes:
        if token < _FIRST_BYTE:
            return b""
        return bytes([token - _FIRST_BYTE]) if token < _FIRST_BYTE + 256 else self.pieces[token]

    def _union(self, a: int, b: int) -> float:
        """Score of two neighbours' union, if there is such a token."""
        union = self.ids.get(self.pieces[a] + self.pieces[b])
        return _NO_UNION if union is None else self.scores[union]

    def _of_character(self, character: bytes) -> list[int]:
        found = self.ids.get(character)
        return [found] if found is not None else [byte + _FIRST_BYTE for byte in character]


def read_llama2c(path: Path) -> Llama2cTokeniser:
    """Read a tokeniser of llama2.c: the longest length, then score, length and bytes of every token.

    Raises:
        BaseModelError: if the file is damaged.
    """
    data = path.read_bytes()
    pieces: list[bytes] = []
    scores: list[float] = []
    at = 4
    while at < len(data):
        if at + 8 > len(data):
            raise BaseModelError(f"{path}: is cut off in token {len(pieces)}")
        score, length = struct.unpack_from("<fi", data, at)
        piece = data[at + 8 : at + 8 + length]
        if length < 0 or len(piece) != length:
            raise BaseModelError(f"{path}: is cut off in token {len(pieces)}")
        pieces.append(piece)
        scores.append(score)
        at += 8 + length
    ids: dict[bytes, int] = {}
    for i, piece in enumerate(pieces):
        ids.setdefault(piece, i)
    return Llama2cTokeniser(tuple(pieces), tuple(scores), ids)
