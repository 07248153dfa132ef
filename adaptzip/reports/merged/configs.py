"""What differs between the config.json that a merged model should have and the one that it has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_OF_SAVING = frozenset({"transformers_version", "_name_or_path", "_commit_hash", "dtype", "torch_dtype", "use_cache"})
"""What saving again changes without another model. Weights tell their dtype themselves."""
_SHOWN = 60
"""Characters of a value."""
_ABSENT = object()


def config_differences(expected: Mapping[str, Any], found: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The fields that both have with other values, and those that one alone has, a line each.

    Fields that are null or empty in one and absent in the other count as the same, and so does what saving changes.
    """
    for key in sorted(expected.keys() | found.keys()):
        one, other = expected.get(key, _ABSENT), found.get(key, _ABSENT)
        name = f"{above}{key}"
        if key in _OF_SAVING or one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from config_differences(one, other, f"{name}.")
        elif other is _ABSENT and one not in (None, {}, []):
            yield f"config.json lacks {name}, expected {_shown(one)}"
        elif one is not _ABSENT and other is not _ABSENT:
            yield f"config.json: {name} is {_shown(other)}, expected {_shown(one)}"
        elif one is _ABSENT and other not in (None, {}, []):
            yield f"config.json has {name} = {_shown(other)}, which the base's lacks"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
