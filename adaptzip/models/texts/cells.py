"""Values of a row as labels and lists; cells of a .csv say in their text what a .jsonl says by types."""

from __future__ import annotations

import ast
import re
from math import isfinite

from adaptzip.errors import CheckpointError
from adaptzip.files.json_values import json_values
from adaptzip.models.texts.example import Label
from adaptzip.models.texts.record import Record

_DIGITS = 18
"""Whole numbers of more digits are no labels."""
_SIDE_BY_SIDE = re.compile(r"""['"]\s+['"]""")
"""Strings without a comma between them, as numpy prints them, and Python joins them."""


def list_in(cell: str) -> list[object] | None:
    """The list that a cell holds, written as in JSON or Python; None where it holds something else."""
    written = cell.strip()
    if not (written.startswith("[") and written.endswith("]")):
        return None
    try:
        value = json_values(written)
    except (ValueError, RecursionError):
        value = _of_python(written)
    return value if isinstance(value, list) else None


def _of_python(written: str) -> object:
    if _SIDE_BY_SIDE.search(written):
        return None
    try:
        return ast.literal_eval(written)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def is_number(cell: str) -> bool:
    """Whether a cell holds one number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def label_in(record: Record, field: str) -> tuple[Label | tuple[Label, ...] | None, str | None]:
    """A row's label, and the cell that it was told from where this is more than a number or a name.

    Of a cell, whole numbers are numbers, lists are lists, and what is in quotes is a name; None where it is empty.

    Raises:
        CheckpointError: if there is no such field, or what it holds is no label.
    """
    value = record.value(field)
    if value is None or value == "":
        return None, None
    if record.typed or not isinstance(value, str):
        return _label(record, field, value), None
    if value.isdecimal() and len(value) <= _DIGITS and str(int(value)) == value:
        return int(value), None
    found = list_in(value)
    if found is not None:
        return _label(record, field, found), value
    name = _quoted(value)
    return (value, None) if name is None else (name, value)


def _quoted(cell: str) -> str | None:
    written = cell.strip()
    if len(written) < 2 or not (written.startswith('"') and written.endswith('"')):
        return None
    try:
        value = json_values(written)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _label(record: Record, field: str, value: object) -> Label | tuple[Label, ...]:
    if isinstance(value, list):
        return tuple(_one_label(record, field, part) for part in value)
    return _one_label(record, field, value)


def _one_label(record: Record, field: str, value: object) -> Label:
    if isinstance(value, str):
        return whole(record.place, field, value)
    if isinstance(value, int) and abs(value) < 10**_DIGITS or isinstance(value, float) and isfinite(value):
        return value
    shown = repr(value) if value is None or isinstance(value, float) else f"a {type(value).__name__}"
    if isinstance(value, int):
        shown = f"a number of more than {_DIGITS} digits"
    raise CheckpointError(
        f"{record.place}: {field!r} is not a label, it holds {shown}",
        hint="a label is a text or a number, or a list of these; a row without one has null there",
    )


def whole(place: str, field: str, text: str) -> str:
    """The text, none of whose characters is a half.

    Raises:
        CheckpointError: if it holds a lone surrogate.
    """
    half = next((character for character in text if "\ud800" <= character <= "\udfff"), None)
    if half is not None:
        raise CheckpointError(
            f"{place}: {field!r} holds half of a character, \\u{ord(half):x}",
            hint="the text was cut in the middle of it; remove that half",
        )
    return text
