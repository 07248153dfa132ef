"""One row of data, whatever it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adaptzip.errors import CheckpointError

SHOWN = 12
"""Names of fields that messages show."""


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
        return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "") or "none"
