"""Calibration texts: a .jsonl with one object a line, or a .txt with one text a line."""

from __future__ import annotations

import json
from pathlib import Path

from adaptzip.errors import CheckpointError

TEXT_KEYS = ("text", "prompt", "question", "sentence")
"""Keys under which a line of a .jsonl may have its text, the first one found counts."""

_HINT = f"write one JSON object a line, with the text under {', '.join(TEXT_KEYS[:-1])} or {TEXT_KEYS[-1]}"


def read_texts(path: Path) -> tuple[str, ...]:
    """The texts of a file, in its order; blank lines are skipped.

    Raises:
        CheckpointError: if the file can't be read, is no .jsonl or .txt in UTF-8, a line holds no text, or there is
            no text at all.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".txt"):
        raise CheckpointError(
            f"{path}: expected texts as .jsonl or .txt, found {path.suffix or 'no suffix'}",
            hint="one JSON object a line in a .jsonl, or one text a line in a .txt",
        )
    try:
        # Not splitlines: a JSON string may hold line separators such as U+2028.
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: does not exist, expected calibration texts") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: is not readable as UTF-8 text ({error})") from error
    full = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if path.suffix == ".txt":
        texts = tuple(line.strip() for _, line in full)
    else:
        texts = tuple(_text(path, number, line) for number, line in full)
    if not texts:
        raise CheckpointError(f"{path}: holds no text", hint="a few hundred texts like those of the task are enough")
    return texts


def _text(path: Path, number: int, line: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}, line {number}: is not JSON ({error})", hint=_HINT) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path}, line {number}: expected a JSON object, found {type(value).__name__}", hint=_HINT
        )
    key = next((key for key in TEXT_KEYS if key in value), None)
    if key is None:
        found = ", ".join(list(value)[:4]) or "none"
        raise CheckpointError(
            f"{path}, line {number}: has none of the keys {', '.join(TEXT_KEYS)} (its keys: {found})", hint=_HINT
        )
    text = value[key]
    if not isinstance(text, str) or not text.strip():
        raise CheckpointError(f"{path}, line {number}: {key!r} is not a text", hint=_HINT)
    return text
