"""What a compressed adapter may cost: stored parameters, bytes on disk, or a share of the source file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, TypeAlias

from adaptzip.errors import UsageError

_HINT = "write 50k or 1.2M (parameters), 64KiB or 2MB (bytes on disk), 2%, 0.02 or 50x (share of the source file)"
_HINTS = {
    "parameters": "write a number of stored parameters, such as 50000, 50k or 1.2M",
    "bytes": "write a number of bytes on disk, such as 65536, 64KiB or 2MB",
}
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

Unit = Literal["parameters", "bytes", "fraction"]
Counted = Literal["parameters", "bytes"]

AnyBudget: TypeAlias = "str | float | Budget"
"""A budget as callers give it; see `Budget.of`."""


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
        >>> adaptzip.Budget.of(0.05).told
        '5 % of the source'
    """

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: str, unit: Counted | None = None) -> Budget:
        """Parse `50000`, `50k`, `1.2M` (parameters), `64KiB`, `2MB` (bytes), `2%`, `0.02` or `100x` (share).

        Args:
            unit: what the number counts, where that is said elsewhere; None where `text` says it.

        Raises:
            UsageError: if `text` is none of these or is not positive.
        """
        hint = _HINT if unit is None else _HINTS[unit]
        match = _NUMBER.match(text)
        if match is None or float(match[1]) <= 0:
            raise UsageError(f"budget {text!r} is not a positive amount", hint=hint)
        number, suffix = float(match[1]), match[2]
        found = _read(number, suffix, unit) if unit or suffix or "." not in match[1] else _share(number)
        if found is None:
            raise UsageError(f"budget {text!r} has no meaning here: {_reason(number, suffix, unit)}", hint=hint)
        return found

    @classmethod
    def of(cls, given: AnyBudget | None) -> Budget | None:
        """A budget as callers give it: text, a whole number of parameters, a share of the source as a float, or itself.

        Raises:
            UsageError: as `parse`, or if it is neither of these.
        """
        if given is None or isinstance(given, Budget):
            return given
        if isinstance(given, str):
            return cls.parse(given)
        if isinstance(given, bool) or not isinstance(given, Real):
            kind = type(given).__name__
            raise UsageError(f"budget {given!r} is {kind}, expected text, a number or a Budget", hint=_HINT)
        found = cls(int(given), "parameters") if isinstance(given, Integral) else _share(float(given))
        if found is None or found.amount <= 0:
            whole = isinstance(given, Integral)
            told = "a positive number of parameters" if whole else "a share of the source, above 0 and at most 1"
            raise UsageError(f"budget {given!r} is not {told}", hint=_HINT)
        return found

    @property
    def told(self) -> str:
        """The limit in words: `50,000 stored parameters`, `65,536 bytes on disk`, `2 % of the source`."""
        if self.unit == "fraction":
            return f"{100 * self.amount:.3g} % of the source"
        return f"{int(self.amount):,} {'stored parameters' if self.unit == 'parameters' else 'bytes on disk'}"

    def bytes_for(self, source_bytes: int) -> int | None:
        """The limit in bytes for a source file of `source_bytes`, or None if it counts parameters."""
        if self.unit == "parameters":
            return None
        return int(self.amount if self.unit == "bytes" else self.amount * source_bytes)


def _read(number: float, suffix: str, unit: Counted | None) -> Budget | None:
    """A number with what stands behind it; None where that means nothing."""
    found: Budget | None = None
    if suffix in _PARAMETERS:
        found = Budget(_whole(number * _PARAMETERS[suffix]), unit or "parameters")
    elif suffix.lower() in _BYTES and unit != "parameters":
        found = Budget(_whole(number * _BYTES[suffix.lower()]), "bytes")
    elif unit is None and suffix in ("%", "x", "X"):
        return _share(number / 100 if suffix == "%" else 1 / number)
    return found if found is not None and found.amount >= 1 else None


def _whole(number: float) -> int:
    """1001 for 1.001 thousand, which is a little less in binary."""
    return int(round(number, 6))


def _share(number: float) -> Budget | None:
    return Budget(number, "fraction") if 0 < number <= 1 else None


def _reason(number: float, suffix: str, unit: Counted | None) -> str:
    """Why a number with what stands behind it is no budget."""
    if unit is None and suffix in ("%", "x", "X"):
        return "it is more than the source itself"
    if unit is None and not suffix:
        return f"a share of the source is at most 1, and {number:g} parameters are no whole number"
    if suffix in _PARAMETERS or suffix.lower() in _BYTES:
        return "it is less than one" if unit is None or number < 1 else f"it does not count {unit}"
    return f"{suffix!r} is no unit"
