"""A row of data: a text, what it is labelled with, and what completes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Label = str | int | float
"""A class's name or index, a number, or a text to be written."""
_SHOWN_TEXT = 40


@dataclass(frozen=True)
class Example:
    """A text, and what it is labelled with.

    Attributes:
        text: the text; with a completion the prompt before it.
        label: a class's name or index, a number (scores), the text to be written (seq2seq), or several: a label for
            each of the text's words (tokens; a text has blanks between them), or the classes that are there
            (multilabel). None without a label.
        pair: the second text of a pair.
        completion: what follows the text, which is what counts.
        words: the words of the text, where the data has them apart.
        messages: a conversation, of which `text` is but the content.
        prompt: how many of its messages come before what counts.
        cell: the label as a .csv has it, where it was read as a list or as a name in quotes: a text to be written is
            written so.
    """

    text: str
    label: Label | tuple[Label, ...] | None = None
    pair: str | None = None
    completion: str | None = None
    words: tuple[str, ...] = ()
    messages: tuple[Mapping[str, Any], ...] = ()
    prompt: int = 0
    cell: str | None = None

    @property
    def start(self) -> str:
        """The text's beginning, as messages show it."""
        text = self.text
        return repr(text if len(text) <= _SHOWN_TEXT else f"{text[:_SHOWN_TEXT]}...")

    @property
    def completes(self) -> bool:
        """Whether a part of it is the completion of the rest."""
        return self.completion is not None or self.prompt > 0
