"""`-s key=value`: a method's own options, typed by the fields of its frozen Config."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from adaptzip.errors import UsageError

_SWITCHES = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


@dataclass(frozen=True)
class Setting:
    """One option of a method.

    Attributes:
        name: as written before the `=`.
        kind: what may stand after it, in words.
        default: its value where it is not set.
        type: the field's type.
        meaning: what it is for, in words; "" where the method does not say.
    """

    name: str
    kind: str
    default: Any
    type: Any
    meaning: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The option as JSON values."""
        return {"name": self.name, "type": self.kind, "default": self.default, "meaning": self.meaning}


def settings_of(config: type) -> tuple[Setting, ...]:
    """The options that a frozen Config class declares, in its order."""
    hints, meanings = get_type_hints(config), _meanings(config)
    return tuple(
        Setting(field.name, _words(hints[field.name]), _default(field), hints[field.name], meanings.get(field.name, ""))
        for field in dataclasses.fields(config)
    )


def _meanings(config: type) -> dict[str, str]:
    """What the `Attributes` of a class's docstring say of each, on one line."""
    told = inspect.cleandoc(config.__doc__ or "").partition("\nAttributes:\n")[2]
    # The section ends where a line is not indented.
    section = re.split(r"^(?=\S)", told, maxsplit=1, flags=re.MULTILINE)[0]
    entries = re.split(r"^(?=    \S)", section, flags=re.MULTILINE)
    pairs = (" ".join(entry.split()).partition(": ") for entry in entries)
    return {name: meaning.rstrip(".") for names, _, meaning in pairs for name in names.split(", ") if meaning}


def parse_settings(items: Iterable[str], method: str, settings: Iterable[Setting]) -> dict[str, Any]:
    """The values that a list of `key=value` gives a method's options.

    Raises:
        UsageError: for an item without `=`, an unknown or repeated key, or a value of the wrong type.
    """
    known = {setting.name: setting for setting in settings}
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"-s {item}: expected key=value", hint=_list(known))
        if key not in known:
            raise UsageError(f"-s {item}: the method {method} has no option {key!r}", hint=_suggest(key, known))
        if key in values:
            raise UsageError(f"-s {item}: {key} is set twice", hint="leave one of them out")
        values[key] = _parse(item, known[key], text.strip())
    return values


def check_values(values: Mapping[str, Any], settings: Iterable[Setting], where: str) -> dict[str, Any]:
    """The same values, of a JSON file, once they are of the options' types.

    Args:
        where: what holds them, for messages.

    Raises:
        UsageError: for a value of the wrong type.
    """
    known = {setting.name: setting for setting in settings}
    checked: dict[str, Any] = {}
    for key, value in values.items():
        words = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        found = [read for kind in _alternatives(known[key].type) if (read := _read(kind, words))[0]]
        if not found:
            raise UsageError(f"{where}: {key} is {words!r}, expected {known[key].kind}")
        checked[key] = found[0][1]
    return checked


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _suggest(key: str, known: Mapping[str, Setting]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"did you mean {close[0]}? {_list(known)}" if close else _list(known)


def _list(known: Mapping[str, Setting]) -> str:
    return f"its options: {', '.join(known)}" if known else "it has no options"


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _words(kind: Any) -> str:
    """A type as the user reads it: `number`, `one of a, b`, `whole number or none`."""
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "none"}
    parts = []
    for part in _alternatives(kind):
        if get_origin(part) is Literal:
            parts.append(f"one of {', '.join(map(str, get_args(part)))}")
        else:
            parts.append(names.get(part, getattr(part, "__name__", str(part))))
    return " or ".join(parts)


def _parse(item: str, setting: Setting, text: str) -> Any:
    for kind in _alternatives(setting.type):
        found, value = _read(kind, text)
        if found:
            return value
    raise UsageError(f"-s {item}: {setting.name} is {text!r}, expected {setting.kind}")


def _read(kind: Any, text: str) -> tuple[bool, Any]:
    """(whether `text` is a value of `kind`, the value)."""
    if get_origin(kind) is Literal:
        match = [value for value in get_args(kind) if str(value) == text]
        return bool(match), match[0] if match else None
    if kind is type(None):
        return text.lower() == "none", None
    if kind is bool:
        return text.lower() in _SWITCHES, _SWITCHES.get(text.lower())
    if kind in (int, float):
        try:
            return True, kind(text)
        except ValueError:
            return False, None
    return kind is str, text
