"""JSON of strangers, held to a budget before it is parsed: a byte of it can become a hundred bytes in memory."""

from __future__ import annotations

import json
from typing import Any

MOST_VALUES, BYTES_A_VALUE = 2**19, 8
"""Values, and the keys of objects, that a text may hold: so many, and one more for so many bytes of it."""


def json_values(text: str | bytes, *, bytes_a_value: int = BYTES_A_VALUE, **how: Any) -> Any:
    """What `json.loads` makes of a text.

    Args:
        bytes_a_value: how many bytes of the text allow for one more value.
        how: what `json.loads` takes besides.

    Raises:
        ValueError: if it is no JSON, or may hold more values than a text of its size.
        RecursionError: if it is nested too deeply.
    """
    plain = text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
    if len(plain) > MOST_VALUES:
        # Brackets within texts count too; no text of that length has as many.
        found = sum(map(plain.count, "[{,:"))
        if found > MOST_VALUES + len(plain) // bytes_a_value:
            raise ValueError(f"{found:,} values in {len(plain):,} characters are more than a file may hold")
    return json.loads(plain, **how)
