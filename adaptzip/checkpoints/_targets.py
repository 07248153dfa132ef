"""Which modules PEFT takes for targets, by a configuration's fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adaptzip.checkpoints._plain_names import PlainNames, ends, plain_name
from adaptzip.core.patterns.matching import fullmatch, match

LAYERS_FORM = r"(?:^|.*?\.){}\.(?P<idx>\d+)\."
SAVED_FORM = r"(^|.*\.){}($|\..*)"
"""What PEFT makes of patterns in layers_pattern and modules_to_save before it uses them."""
_ANY_LAYERS = r".*?\.[^.]*\.(?P<idx>\d+)\."
_SEGMENT = re.compile(r"[\w-]+")
_DIGITS = 18
"""Longest number of a layer: none is larger, and Python converts no thousands of digits."""


class Targets:
    """What a configuration says of modules by their names. It is made once for many names, and remembers how to find
    one.

    Args:
        raw: the configuration, vetted by `parse_config`.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._wanted, self._excluded = _Names(raw.get("target_modules")), _Names(raw.get("exclude_modules"))
        layers, patterns = raw.get("layers_to_transform"), raw.get("layers_pattern") or []
        self._layers = None if layers in (None, []) else frozenset([layers] if isinstance(layers, int) else layers)
        listed = [patterns] if isinstance(patterns, str) else patterns
        self._patterns = [LAYERS_FORM.format(pattern) for pattern in listed] or [_ANY_LAYERS]
        self._saved = list(dict.fromkeys(raw.get("modules_to_save") or ()))
        self._segments = {name: place for place, name in enumerate(self._saved) if _SEGMENT.fullmatch(name)}
        self._others = [name for name in self._saved if name not in self._segments]

    def choose(self, module: str) -> bool:
        """Whether target_modules choose `module`, were it in the base model.

        Raises:
            RefusedError: if that takes too long (`adaptzip.core.patterns`).
        """
        if self._excluded.fit(module) or not self._wanted.fit(module):
            return False
        return self._wanted.name_whole(module) or self._in_layers(module)

    def load(self, module: str) -> bool:
        """Whether PEFT loads the LoRA of `module`: a module that is saved as a whole never has one.

        Raises:
            RefusedError: as `choose`.
        """
        return self.choose(module) and self.saved_whole(module) is None

    def saved_whole(self, module: str) -> str | None:
        """What in modules_to_save keeps PEFT from a LoRA on `module`, or None.

        Raises:
            RefusedError: as `choose`.
        """
        # What a line feed does to `.` and `$` is left to `re`.
        tried = self._saved if "\n" in module else self._others
        named = None if tried is self._saved else self._named(module)
        return named or next((name for name in tried if match(SAVED_FORM.format(name), module) is not None), None)

    def _named(self, module: str) -> str | None:
        """What in modules_to_save is one of the words between the dots of a name."""
        found = [place for word in module.split(".") if (place := self._segments.get(word)) is not None]
        return self._saved[min(found)] if found else None

    def _in_layers(self, module: str) -> bool:
        if self._layers is None:
            return True
        for pattern in self._patterns:
            found = match(pattern, module)
            if found is not None:
                number = str(found["idx"])
                return len(number) <= _DIGITS and int(number) in self._layers
        return False


class _Names:
    """The value of target_modules or exclude_modules: names, of which a module's may end with one, or one pattern."""

    def __init__(self, value: str | list[str] | None) -> None:
        self._value = value
        self._listed = frozenset(value if isinstance(value, list) else ())
        parts = [plain_name(part) for part in value.split("|")] if isinstance(value, str) else []
        plain = [(part[0], place) for place, part in enumerate(parts) if part is not None]
        self._plain = PlainNames(plain) if plain and len(plain) == len(parts) else None

    def fit(self, module: str) -> bool:
        if not self._value:
            return False
        if self._value == "all-linear":
            return True
        if isinstance(self._value, str):
            if self._plain is not None and "\n" not in module:
                return self._plain.first(module) is not None
            return fullmatch(self._value, module)
        return any(end in self._listed for end in ends(module))

    def name_whole(self, module: str) -> bool:
        """Whether it is a pattern, or names the module in full, so that layers_to_transform does not count."""
        return isinstance(self._value, str) or module in self._listed
