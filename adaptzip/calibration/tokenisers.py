"""Tokenisers from a local folder: transformers' own, or the tokeniser file of llama2.c."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, Protocol

from adaptzip.calibration.guests import load_locally
from adaptzip.errors import BaseModelError, RefusedError

_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
_BOS = 1
_FIRST_BYTE = 3
"""In llama2.c's vocabularies ids 0 to 2 are <unk>, <s> and </s>, and the next 256 are single bytes."""
_NO_UNION = -inf


class Tokeniser(Protocol):
    """Turns a text into token ids."""

    def encode(self, text: str) -> list[int]:
        """Ids with the special tokens that the model was trained with."""
        ...


def load_tokeniser(folder: Path, vocabulary: int) -> Tokeniser:
    """The tokeniser in a base model's folder.

    Without one that transformers reads, a llama2.c file `tok*.bin` there or in the folder above is taken if it has
    as many tokens as the model.

    Args:
        vocabulary: number of the model's tokens.

    Raises:
        RefusedError: if there is none.
        BaseModelError: if it can't be read.
    """
    if any((folder / name).is_file() for name in _FILES):
        return _Guest(load_locally("AutoTokenizer", folder))
    for place in (folder, folder.resolve().parent):
        for file in sorted(place.glob("tok*.bin")):
            tokens = read_llama2c(file)
            if len(tokens.pieces) == vocabulary:
                return tokens
    raise RefusedError(
        f"{folder}: has no tokeniser, so that no text can be put into the model",
        hint="add the tokenizer.json (or the other tokeniser files) that belong to the base model",
    )


@dataclass(frozen=True, eq=False)
class _Guest:
    """transformers' tokeniser."""

    tokeniser: Any

    def encode(self, text: str) -> list[int]:
        return list(self.tokeniser(text)["input_ids"])


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

    def encode(self, text: str) -> list[int]:
        """<s>, then the text after one blank."""
        found = [i for character in f" {text}" for i in self._of_character(character.encode())]
        scores = [self._union(a, b) for a, b in pairwise(found)]
        while scores and (best := max(scores)) > _NO_UNION:
            place = scores.index(best)
            found[place : place + 2] = [self.ids[self.pieces[found[place]] + self.pieces[found[place + 1]]]]
            around = slice(max(place - 1, 0), place + 2)
            scores[around] = [self._union(a, b) for a, b in pairwise(found[around])]
        return [_BOS, *found]

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
