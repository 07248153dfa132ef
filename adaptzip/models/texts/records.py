"""Records from a file: objects in a .jsonl or .json, rows of a .csv or .tsv with a header, or the lines of a .txt."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adaptzip.errors import CheckpointError

_KINDS = "one JSON object a line in a .jsonl, rows under a header in a .csv, or one text a line in a .txt"
_OTHER_FILES: Mapping[str, str] = {
    ".gz": "unpack it first, as `gunzip FILE` does",
    ".zst": "unpack it first, as `unzstd FILE` does",
    ".zip": "unpack it first",
    ".parquet": "write its rows as a .jsonl: pandas.read_parquet(FILE).to_json(OUT, orient='records', lines=True)",
    ".arrow": "write its rows as a .jsonl: datasets.Dataset.from_file(FILE).to_json(OUT)",
    ".xlsx": "save the sheet as a .csv in UTF-8",
}
"""What to do with files of kinds that are not read."""
_OTHER_MARKS = (";", "\t", "|")
"""What some programs part columns with."""
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

    def value(self, field: str) -> object:
        """What a field holds; `a.b` is what the object in the field `a` has under `b`.

        Raises:
            CheckpointError: if there is no such field.
        """
        if field in self.fields:
            return self.fields[field]
        found: object = self.fields
        for part in field.split("."):
            if not isinstance(found, Mapping) or part not in found:
                raise CheckpointError(
                    f"{self.place}: has no field {field!r} (its fields: {self.names})", hint="name one of its fields"
                )
            found = found[part]
        return found

    @property
    def names(self) -> str:
        """Its fields, as messages name them."""
        inner = [(name, value) for name, value in self.fields.items() if isinstance(value, Mapping) and value]
        within = {name: [f"{name}.{part}" for part in value] for name, value in inner}
        names = [part for name in self.fields for part in within.get(name, [str(name)])]
        return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "") or "none"


def read_records(path: Path) -> tuple[Record, ...]:
    """The records of a file, in its order; blank lines are skipped.

    Raises:
        CheckpointError: if the file can't be read, is no .jsonl, .json, .csv, .tsv or .txt in UTF-8, a line is
            malformed, or there is no record at all.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise CheckpointError(
            f"{path}: expected texts as .jsonl, .json, .csv, .tsv or .txt, found {suffix or 'no suffix'}",
            hint=_OTHER_FILES.get(suffix, _KINDS),
        )
    # Not splitlines: a JSON string may hold line separators such as U+2028.
    records = tuple(reader(path, _content(path).split("\n")))
    if not records:
        raise CheckpointError(f"{path}: holds no text", hint="a few hundred texts like those of the task are enough")
    return records


def _content(path: Path) -> str:
    try:
        # The mark at the start that some spreadsheets write is no part of the first field's name. Line ends stay as
        # they are, since cells and texts may hold some.
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: does not exist, expected a file of texts", hint=_KINDS) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: is not UTF-8 text ({error})", hint="save the file as UTF-8") from error
    except OSError as error:
        raise CheckpointError(f"{path}: is not readable ({error})", hint=_KINDS) from error
    nothing = content.find("\0")
    if nothing >= 0:
        line = content.count("\n", 0, nothing) + 1
        raise CheckpointError(f"{path}, line {line}: holds a NUL byte, expected text", hint="save the file as UTF-8")
    return content


def _plain(path: Path, lines: Sequence[str]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Record(f"{path}, line {number}", {"text": line.removesuffix("\r")})


def _json(path: Path, lines: Sequence[str]) -> Iterator[Record]:
    """One object a line, or one list of objects."""
    first = next((line.lstrip() for line in lines if line.strip()), "")
    if first.startswith("["):
        yield from _json_list(path, lines)
        return
    if first.strip() == "{":
        raise CheckpointError(
            f"{path}: begins one JSON object over several lines, expected a list of objects, or one object a line",
            hint="write its rows out, one object a line",
        )
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{path}, line {number}"
            yield _object(place, _parsed(place, line))


def _json_list(path: Path, lines: Sequence[str]) -> Iterator[Record]:
    value = _parsed(str(path), "\n".join(lines))
    for number, item in enumerate(value, 1):
        yield _object(f"{path}, item {number}", item)


def _parsed(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{place}: is not JSON ({error})", hint=_KINDS) from error


def _object(place: str, value: object) -> Record:
    if not isinstance(value, dict):
        raise CheckpointError(f"{place}: expected a JSON object, found {type(value).__name__}", hint=_KINDS)
    return Record(place, value)


def _rows(path: Path, lines: Sequence[str], delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_CELL)
    rows = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    try:
        for row in rows:
            place = f"{path}, line {rows.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if header is None:
                header = _header(place, row)
                continue
            if len(row) != len(header):
                raise CheckpointError(
                    f"{place}: has {len(row)} columns, expected {len(header)} ({', '.join(header[:_SHOWN])})",
                    hint="put texts that hold commas, tabs or line breaks in double quotes",
                )
            yield Record(place, dict(zip(header, row, strict=True)), typed=False)
    except csv.Error as error:
        raise CheckpointError(
            f"{path}, line {rows.line_num}: is not CSV ({error})", hint="double the quotes within quotes"
        ) from error


def _header(place: str, row: Sequence[str]) -> list[str]:
    names = [name.strip() for name in row]
    if len(names) == 1 and any(mark in names[0] for mark in _OTHER_MARKS):
        raise CheckpointError(
            f"{place}: has the one column {names[0]!r}, which looks like several",
            hint="part the columns with commas in a .csv, with tabs in a .tsv",
        )
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise CheckpointError(f"{place}: has the column {twice!r} twice", hint="call each column differently")
    return names


_READERS: Mapping[str, Callable[[Path, Sequence[str]], Iterator[Record]]] = {
    ".jsonl": _json,
    ".json": _json,
    ".csv": partial(_rows, delimiter=","),
    ".tsv": partial(_rows, delimiter="\t"),
    ".txt": _plain,
}
