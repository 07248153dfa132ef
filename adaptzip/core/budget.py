"""What a compressed adapter may cost: stored parameters, bytes on disk, or a share of the source file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from adaptzip.errors import UsageError

_HINT = "write 50k or 1.2M (parameters), 64KiB or 2MB (bytes on disk), 2% or 100x (share of the source file)"
_NUMBER = re.compile(r"^\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z%]*)\s*$")
_PARAMETERS = {"": 1, "k": 10**3, "K": 10**3, "m": 10**6, "M": 10**6, "g": 10**9, "G": 10**9}
_BYTES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}


@dataclass(frozen=True)
class Budget:
    """An upper limit, in exactly one unit.

    Attributes:
        amount: parameters, bytes, or the fraction of the source file in (0, 1].
        unit: which of these `amount` is.

    Example:
        >>> adaptzip.Budget.parse("50k")
        Budget(amount=50000, unit='parameters')
        >>> adaptzip.Budget.parse("20x").bytes_for(source_bytes=1_000_000)
        50000
    """

    amount: float
    unit: Literal["parameters", "bytes", "fraction"]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parse `50k`, `1.2M` (parameters), `64KiB`, `2MB` (bytes), `2%` or `100x` (share of the source).

        Raises:
            UsageError: if `text` is none of these or is not positive.
        """
        match = _NUMBER.match(text)
        if match is None or float(match[1]) <= 0:
            raise UsageError(f"budget {text!r} is not a positive amount", hint=_HINT)
        number, suffix = float(match[1]), match[2]
        if suffix in _PARAMETERS:
            return cls(int(number * _PARAMETERS[suffix]), "parameters")
        if suffix.lower() in _BYTES:
            return cls(int(number * _BYTES[suffix.lower()]), "bytes")
        fraction = {"%": number / 100, "x": 1 / number}.get(suffix)
        if fraction is None or not 0 < fraction <= 1:
            raise UsageError(f"budget {text!r} has no meaning here", hint=_HINT)
        return cls(fraction, "fraction")

    @classmethod
    def of(cls, given: str | Budget | None) -> Budget | None:
        """A budget as callers give it: parsed where it is text.

        Raises:
            UsageError: as `parse`, or if it is neither text nor a budget: a bare number has no unit.
        """
        if isinstance(given, str):
            return cls.parse(given)
        if given is not None and not isinstance(given, Budget):
            raise UsageError(f"budget {given!r} is {type(given).__name__}, expected text or a Budget", hint=_HINT)
        return given

    def bytes_for(self, source_bytes: int) -> int | None:
        """The limit in bytes for a source file of `source_bytes`, or None if it counts parameters."""
        if self.unit == "parameters":
            return None
        return int(self.amount if self.unit == "bytes" else self.amount * source_bytes)
