"""The adapter's configuration as what it has besides PEFT's usual fields (formats/adz-1.md, section 2.4)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from adaptzip.errors import FormatError
from adaptzip.files.json_values import json_values

DEFAULTS = files("adaptzip.adz.container").joinpath("peft_defaults.json").read_bytes()
"""Part of the format: formats/adz-1.md prints its sha256."""


@cache
def _templates() -> tuple[dict[str, Any], ...]:
    """No fields, then those of the newest PEFT, then those of older and older ones."""
    table = json.loads(DEFAULTS)
    fields: dict[str, Any] = table["fields"]
    found: list[dict[str, Any]] = [{}]
    for newer in table["newer"]:
        fields = {key: item for key, item in fields.items() if key not in newer}
        found.append(fields)
    return tuple(found)


def write_config(config: Mapping[str, Any]) -> str | None:
    """The text of a configuration as `[template, differing fields, absent field, ...]`; None if JSON can't hold it.

    Reading it gives the same keys in the same order, and values of the same types.
    """
    try:
        text = json.dumps(dict(config), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:  # NaN, or half a character.
        return None
    return _shortest(text)


@lru_cache(maxsize=8)
def _shortest(text: str) -> str:
    config = json.loads(text)
    found = [_text([0, config])]
    if list(config) == sorted(config):
        found += [_text(_difference(config, number)) for number in range(1, len(_templates()))]
    return min(found, key=len)


def _difference(config: dict[str, Any], number: int) -> list[Any]:
    template = _templates()[number]
    differing = {
        key: item for key, item in config.items() if key not in template or _text(item) != _text(template[key])
    }
    return [number, differing, *(key for key in template if key not in config)]


def read_config(item: Any) -> dict[str, Any]:
    """Inverse of `write_config`.

    Raises:
        FormatError: if it is no such list.
    """
    match item:
        case [number, dict(differing), *absent] if type(number) is int and 0 <= number < len(_templates()):
            template = _templates()[number]
            if all(isinstance(key, str) and key in template and key not in differing for key in absent):
                if not number:
                    return differing
                left = {key: default for key, default in template.items() if key not in absent}
                return dict(sorted((deepcopy(left) | differing).items()))
    raise FormatError(f"metadata: 'adapter' is malformed: {repr(item)[:100]}")


def parse_config(text: bytes) -> dict[str, Any]:
    """The configuration as a table, where it is kept as text.

    It is another program's text, so that NaN and repeated keys, which Python reads and writes, are let through.

    Raises:
        FormatError: if it is not the UTF-8 text of a JSON object.
    """
    try:
        value = json_values(text.decode() or "{}")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the source's configuration is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError("the source's configuration is not a JSON object")
    return value


def config_text(config: Mapping[str, Any]) -> bytes:
    """The text of a configuration that `write_config` does not take."""
    return json.dumps(dict(config), separators=(",", ":")).encode()


def _text(item: Any) -> str:
    return json.dumps(item, separators=(",", ":"), ensure_ascii=False)
