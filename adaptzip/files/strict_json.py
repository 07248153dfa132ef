"""JSON without what makes two readers differ: repeated keys, NaN, lone surrogates, other encodings than UTF-8."""

from __future__ import annotations

import json
from typing import Any

from adaptzip.errors import FormatError
from adaptzip.files.json_values import json_values


def parse(text: str | bytes, what: str) -> Any:
    """Parse JSON text.

    Args:
        what: names the text in error messages.

    Raises:
        FormatError: if it is not JSON, or not strict.
    """
    try:
        plain = text.decode() if isinstance(text, bytes) else text
        value = json_values(plain, object_pairs_hook=_unique, parse_constant=_refuse)
        if r"\u" in plain:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON: {error}") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is repeated")
    return table


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number")
