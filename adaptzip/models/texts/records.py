"""Records from a file: objects in a .jsonl or .json, rows of a .csv or .tsv with a header, or the lines of a .txt.

These are read by hand: the package `datasets`, which reads the rows of a .parquet and of the Hub, guesses types
(docs/decisions/0023-by-hand.md).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from adaptzip.errors import CheckpointError
from adaptzip.files.digest import digest
from adaptzip.files.json_values import json_values
from adaptzip.files.regular import read_regular
from adaptzip.models.texts.data_sets import PARQUET, named_set, rows_of_file, rows_of_set
from adaptzip.models.texts.record import SHOWN, Record

_KINDS = "one JSON object a line in a .jsonl, rows under a header in a .csv or a .parquet, or one text a line in a .txt"
_OTHER_FILES: Mapping[str, str] = {
    ".gz": "unpack it first, as `gunzip FILE` does",
    ".zst": "unpack it first, as `unzstd FILE` does",
    ".zip": "unpack it first",
    ".arrow": "write its rows as a .jsonl: datasets.Dataset.from_file(FILE).to_json(OUT)",
    ".xlsx": "save the sheet as a .csv in UTF-8",
}
"""What to do with files of kinds that are not read."""
_OTHER_MARKS = (";", "\t", "|")
"""What some programs part columns with."""
_LONGEST_CELL = 2**31 - 1


def read_records(path: Path) -> tuple[Record, ...]:
    """The records of a file, or of a data set of the Hub, in its order; blank lines are skipped.

    Raises:
        CheckpointError: if the file can't be read, is no .jsonl, .json, .csv, .tsv or .txt in UTF-8 and no .parquet, a
            line is malformed, there is no record at all, or a data set of the Hub can't be fetched.
    """
    path = Path(path)
    records = tuple(_records(path))
    if not records:
        raise CheckpointError(f"{path}: holds no text", hint="a few hundred texts like those of the task are enough")
    return records


def rows_digest(path: Path) -> str:
    """What tells rows from others that were called the same."""
    return digest(repr(record.fields).encode() for record in read_records(path))


def _records(path: Path) -> Iterator[Record]:
    wanted, suffix = named_set(path), path.suffix.lower()
    if wanted is not None:
        return rows_of_set(wanted)
    if suffix == PARQUET:
        return rows_of_file(path, _bytes(path))
    reader = _READERS.get(suffix)
    if reader is None:
        raise CheckpointError(
            f"{path}: expected texts as .jsonl, .json, .csv, .tsv, .txt or .parquet, found {suffix or 'no suffix'}",
            hint=_OTHER_FILES.get(suffix, _KINDS),
        )
    # Not splitlines: a JSON string may hold line separators such as U+2028.
    return reader(path, _content(path).split("\n"))


def _bytes(path: Path) -> bytes:
    try:
        return read_regular(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: does not exist, expected a file of texts", hint=_KINDS) from error
    except OSError as error:
        raise CheckpointError(f"{path}: is not readable ({error})", hint=_KINDS) from error


def _content(path: Path) -> str:
    try:
        # The mark at the start that some spreadsheets write is no part of the first field's name. Line ends stay as
        # they are, since cells and texts may hold some.
        content = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: is not UTF-8 text ({error})", hint="save the file as UTF-8") from error
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
        return json_values(text)
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
                    f"{place}: has {len(row)} columns, expected {len(header)} ({', '.join(header[:SHOWN])})",
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
