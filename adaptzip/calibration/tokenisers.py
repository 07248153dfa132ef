"""Tokenisers from a local folder: transformers' own, or the tokeniser file of llama2.c."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, Protocol

from adaptzip.calibration.chats import joined, parts_of
from adaptzip.calibration.guests import load_locally
from adaptzip.checkpoints._places import CONFIG_NAME
from adaptzip.errors import BaseModelError, RefusedError

_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")
_BOS = 1
_FIRST_BYTE = 3
"""In llama2.c's vocabularies ids 0 to 2 are <unk>, <s> and </s>, and the next 256 are single bytes."""
_NO_UNION = -inf


class Tokeniser(Protocol):
    """Turns a text into token ids, of which it gives at most `most`."""

    def encode(self, text: str, most: int | None = None) -> list[int]:
        """Ids with the special tokens that the model was trained with, also where the text is cut."""
        ...

    def encode_target(self, text: str, most: int | None = None) -> list[int]:
        """Ids of a text that a seq2seq model is to write."""
        ...

    def encode_words(self, words: Sequence[str], most: int | None = None) -> tuple[list[int], list[int | None]]:
        """Ids of the words with blanks between them, and which word each is of; None for special tokens."""
        ...

    def encode_pair(self, text: str, pair: str, most: int | None = None) -> tuple[list[int], list[int]]:
        """Ids of two texts that belong together, and which of the two each is of, where the tokeniser tells."""
        ...

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = False) -> list[int]:
        """Ids of a conversation by the tokeniser's own template; with `answer` up to where the next answer begins."""
        ...

    def token(self, index: int) -> str:
        """What one id stands for."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        ...

    @property
    def start(self) -> int | None:
        """The token that a text starts with, or if there is none what ends the text before it."""
        ...

    @property
    def end(self) -> int | None:
        """The token that ends a text."""
        ...

    @property
    def pad(self) -> int | None:
        """The token that texts are padded with."""
        ...


def tokeniser_folder(adapter: str | Path) -> Path | None:
    """The folder of an adapter, where it has a tokeniser with its vocabulary for transformers beside the weights."""
    folder = Path(adapter) if Path(adapter).is_dir() else Path(adapter).parent
    if not (folder / CONFIG_NAME).is_file():
        return None
    return folder if any((folder / name).is_file() for name in _FILES if name != "tokenizer_config.json") else None


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

    def encode(self, text: str, most: int | None = None) -> list[int]:
        return list(self.tokeniser(text, **_cut(most))["input_ids"])

    def encode_target(self, text: str, most: int | None = None) -> list[int]:
        return list(self.tokeniser(text_target=text, **_cut(most))["input_ids"])

    def encode_words(self, words: Sequence[str], most: int | None = None) -> tuple[list[int], list[int | None]]:
        """By the places of tokens in the text, as not every tokeniser takes words one by one."""
        owners: list[int | None] = [i for index, word in enumerate(words) for i in (*[index] * len(word), None)]
        if not self.tokeniser.is_fast:
            raise RefusedError(
                f"{type(self.tokeniser).__name__} does not say where its tokens are in a text",
                hint="add the tokenizer.json that belongs to the base model",
            )
        found = self.tokeniser(" ".join(words), return_offsets_mapping=True, **_cut(most))
        # A token's last character: some begin with the blank before their word.
        spans = found["offset_mapping"]
        return list(found["input_ids"]), [owners[end - 1] if end > start else None for start, end in spans]

    def encode_pair(self, text: str, pair: str, most: int | None = None) -> tuple[list[int], list[int]]:
        found = self.tokeniser(text, pair, **_cut(most))
        return list(found["input_ids"]), list(found.get("token_type_ids", ()))

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = False) -> list[int]:
        if not getattr(self.tokeniser, "chat_template", None):
            raise RefusedError(
                "the tokeniser has no chat template, so that messages can't be put together",
                hint="give rows with a prompt and a completion, or name the field of a text with --text-field",
            )
        text = self._chat([joined(message) for message in messages], answer)
        parted = any(isinstance(message.get("content"), list) for message in messages)
        if parted and not _says(text, messages):
            # Some templates take nothing but lists of parts, and leave out what is not one.
            text = self._chat(messages, answer)
            if not _says(text, messages):
                raise RefusedError(
                    "the tokeniser's chat template leaves out what the messages say",
                    hint="give messages whose content is one text each",
                )
        return list(self.tokeniser(text, add_special_tokens=False)["input_ids"])

    def _chat(self, messages: Sequence[Mapping[str, Any]], answer: bool) -> str:
        try:
            return str(
                self.tokeniser.apply_chat_template(
                    [dict(message) for message in messages], tokenize=False, add_generation_prompt=answer
                )
            )
        except Exception as error:  # A template is a program of its own, which raises what it likes.
            reason = str(error).strip().partition("\n")[0]
            raise RefusedError(f"the tokeniser's chat template refuses the messages ({reason})") from error

    def token(self, index: int) -> str:
        return str(self.tokeniser.convert_ids_to_tokens(index))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokeniser.decode(list(ids), skip_special_tokens=True))

    @property
    def start(self) -> int | None:
        own: int | None = self.tokeniser.bos_token_id
        return self.end if own is None else own

    @property
    def end(self) -> int | None:
        own: int | None = self.tokeniser.eos_token_id
        return own

    @property
    def pad(self) -> int | None:
        own: int | None = self.tokeniser.pad_token_id
        return own


def _says(text: str, messages: Sequence[Mapping[str, Any]]) -> bool:
    return all(part.strip() in text for message in messages for part in parts_of(message))


def _cut(most: int | None) -> dict[str, Any]:
    return {} if most is None else {"truncation": True, "max_length": most}


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

    def encode_words(self, words: Sequence[str], most: int | None = None) -> tuple[list[int], list[int | None]]:
        """Each word by itself, after one blank."""
        ids: list[int] = [_BOS]
        owners: list[int | None] = [None]
        for index, word in enumerate(words):
            part = self.encode(word)[1:]
            ids.extend(part)
            owners.extend([index] * len(part))
        return ids[:most], owners[:most]

    def encode_pair(self, text: str, pair: str, most: int | None = None) -> tuple[list[int], list[int]]:
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
