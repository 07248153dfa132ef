"""Tokenisers from a local folder, read by transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

from adaptzip.errors import RefusedError
from adaptzip.models.guests import load_locally
from adaptzip.models.texts.chats import joined, parts_of

_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model")


class Tokeniser(Protocol):
    """Turns a text into token ids, of which it gives at most `most`."""

    def encode(self, text: str, most: int | None = None) -> list[int]:
        """Ids with the special tokens that the model was trained with, also where the text is cut."""
        ...

    def encode_target(self, text: str, most: int | None = None) -> list[int]:
        """Ids of a text that a seq2seq model is to write."""
        ...

    def encode_words(
        self, words: Sequence[str], most: int | None = None, *, listed: bool = True
    ) -> tuple[list[int], list[int], list[int | None]]:
        """Ids of words, their types as of `encode_typed`, and which word each is of; None for special tokens.

        Args:
            listed: the words are those of a list, and not a text with blanks between them.
        """
        ...

    def encode_typed(self, text: str, pair: str | None = None, most: int | None = None) -> tuple[list[int], list[int]]:
        """Ids of a text, or of two that belong together, and the type of each, where the tokeniser tells types."""
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
    def size(self) -> int:
        """How many tokens it knows."""
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


def has_vocabulary(folder: Path) -> bool:
    """Whether a folder has a tokeniser with its vocabulary for transformers."""
    return any((folder / name).is_file() for name in _FILES if name != "tokenizer_config.json")


def load_tokeniser(folder: Path) -> Tokeniser:
    """The tokeniser in a base model's folder.

    Raises:
        RefusedError: if there is none.
        BaseModelError: if it can't be read.
    """
    if any((folder / name).is_file() for name in _FILES):
        return _Guest(load_locally("AutoTokenizer", folder), folder)
    other = next((f" but {file.name}, which is llama2.c's" for file in sorted(folder.glob("tok*.bin"))), "")
    raise RefusedError(
        f"{folder}: has no tokeniser that transformers reads{other}, so that no text can be put into the model",
        hint="add the tokenizer.json (or the other tokeniser files) that belong to the base model",
    )


@dataclass(frozen=True, eq=False)
class _Guest:
    """transformers' tokeniser."""

    tokeniser: Any
    folder: Path

    def encode(self, text: str, most: int | None = None) -> list[int]:
        return list(self.tokeniser(text, **_cut(most))["input_ids"])

    def encode_target(self, text: str, most: int | None = None) -> list[int]:
        return list(self.tokeniser(text_target=text, **_cut(most))["input_ids"])

    def encode_words(
        self, words: Sequence[str], most: int | None = None, *, listed: bool = True
    ) -> tuple[list[int], list[int], list[int | None]]:
        if not self.tokeniser.is_fast:
            raise RefusedError(
                f"{type(self.tokeniser).__name__} does not say where its tokens are in a text",
                hint="add the tokenizer.json that belongs to the base model",
            )
        if listed and words:
            found = self._of_lists(list(words), is_split_into_words=True, **_cut(most))
            return *_typed(found), list(found.word_ids())
        options = {"return_offsets_mapping": True, "return_special_tokens_mask": True, **_cut(most)}
        found = self.tokeniser(" ".join(words), **options)
        return *_typed(found), _owners(words, found["offset_mapping"], found["special_tokens_mask"])

    @cached_property
    def _of_lists(self) -> Any:
        """What takes lists of words: classes as RoBERTa's run them together but with add_prefix_space."""
        cuts = getattr(self.tokeniser.backend_tokenizer.pre_tokenizer, "add_prefix_space", True)
        if cuts or "add_prefix_space" not in signature(type(self.tokeniser)).parameters:
            return self.tokeniser
        return load_locally("AutoTokenizer", self.folder, add_prefix_space=True)

    def encode_typed(self, text: str, pair: str | None = None, most: int | None = None) -> tuple[list[int], list[int]]:
        return _typed(self.tokeniser(text, pair, **_cut(most)))

    def encode_chat(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = False) -> list[int]:
        if not getattr(self.tokeniser, "chat_template", None):
            raise RefusedError(
                "the tokeniser has no chat template, so that messages can't be put together",
                hint="give rows with a prompt and a completion, or name the field of a text with `text_field=`",
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
    def size(self) -> int:
        return len(self.tokeniser)

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


def _typed(found: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    return list(found["input_ids"]), list(found.get("token_type_ids", ()))


def _owners(words: Sequence[str], spans: Sequence[tuple[int, int]], special: Sequence[int]) -> list[int | None]:
    """Which of the words with blanks between them each token is of, by its place in the text.

    It is told by its last character, as some tokens begin with the blank before their word. Those that are nothing
    else are the word's first token.
    """
    owners = [i for index, word in enumerate(words) for i in (*[index] * len(word), index + 1)][:-1]
    # Some tokens of a blank are said to be nowhere.
    places = (end - 1 if end > start else start for start, end in spans)
    pairs = zip(places, special, strict=True)
    return [None if added or place >= len(owners) else owners[place] for place, added in pairs]


def _cut(most: int | None) -> dict[str, Any]:
    return {} if most is None else {"truncation": True, "max_length": most}
