"""Texts from a file: a .jsonl with one object a line, a .csv with a header, or a .txt with one text a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptzip.errors import CheckpointError

TEXT_KEYS = ("text", "prompt", "question", "sentence")
"""Fields in which a record may have its text, the first one found counts."""

_HINT = f"the text is looked for under {', '.join(TEXT_KEYS[:-1])} and {TEXT_KEYS[-1]}, unless a field is named"
_KINDS = "one JSON object a line in a .jsonl, rows under a header in a .csv, or one text a line in a .txt"
_SHOWN = 12
_LONGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class Record:
    """One line of a file, or one row.

    Attributes:
        place: file and line, as messages name it.
        fields: what it holds, by name; a line of a .txt is its field "text".
        typed: whether numbers and texts are told apart, as in JSON.
    """

    place: str
    fields: Mapping[str, object]
    typed: bool = True

    def text_name(self) -> str:
        """The first of `TEXT_KEYS` that is there.

        Raises:
            CheckpointError: if there is none.
        """
        name = next((key for key in TEXT_KEYS if key in self.fields), None)
        if name is None:
            raise CheckpointError(
                f"{self.place}: has none of the fields {', '.join(TEXT_KEYS)} (its fields: {self._names})", hint=_HINT
            )
        return name

    def value(self, field: str) -> object:
        """What a field holds.

        Raises:
            CheckpointError: if there is no such field.
        """
        if field not in self.fields:
            raise CheckpointError(
                f"{self.place}: has no field {field!r} (its fields: {self._names})", hint="name one of its fields"
            )
        return self.fields[field]

    @property
    def _names(self) -> str:
        names = [str(name) for name in self.fields]
        return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "") or "none"


def read_records(path: Path) -> tuple[Record, ...]:
    """The records of a file, in its order; blank lines are skipped.

    Raises:
        CheckpointError: if the file can't be read, is no .jsonl, .csv or .txt in UTF-8, a line is malformed, or there
            is no record at all.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise CheckpointError(
            f"{path}: expected texts as .jsonl, .csv or .txt, found {path.suffix or 'no suffix'}", hint=_KINDS
        )
    try:
        # The mark at the start that some spreadsheets write is no part of the first field's name.
        content = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: does not exist, expected a file of texts", hint=_KINDS) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: is not readable as UTF-8 text ({error})", hint=_KINDS) from error
    # Not splitlines: a JSON string may hold line separators such as U+2028.
    records = tuple(reader(path, content.split("\n")))
    if not records:
        raise CheckpointError(f"{path}: holds no text", hint="a few hundred texts like those of the task are enough")
    return records


def _plain(path: Path, lines: Sequence[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Record(f"{path}, line {number}", {"text": line.strip()})


def _json(path: Path, lines: Sequence[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{place}: is not JSON ({error})", hint=_KINDS) from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{place}: expected a JSON object, found {type(value).__name__}", hint=_KINDS)
        yield Record(place, value)


def _csv(path: Path, lines: Sequence[str]) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_CELL)
    rows = csv.reader((f"{line}\n" for line in lines), strict=True)
    header: list[str] | None = None
    try:
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = [name.strip() for name in row]
                continue
            if len(row) != len(header):
                raise CheckpointError(
                    f"{place}: has {len(row)} columns, expected {len(header)} ({', '.join(header[:_SHOWN])})",
                    hint="put texts that hold commas or line breaks in double quotes",
                )
            yield Record(place, dict(zip(header, row, strict=True)), typed=False)
    except csv.Error as error:
        raise CheckpointError(
            f"{path}, line {rows.line_num}: is not CSV ({error})", hint="double the quotes within quotes"
        ) from error


_READERS: Mapping[str, Callable[[Path, Sequence[str]], Iterator[Record]]] = {
    ".jsonl": _json,
    ".csv": _csv,
    ".txt": _plain,
}
