"""How a start is asked for: found by itself, not at all, by a seed, or by what lies at a path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adaptzip.bases.starts.generators import MOST_SEED
from adaptzip.errors import UsageError

_SEED = re.compile(r"([0-9]{1,20})(?::([0-9]{1,15}))?")


@dataclass(frozen=True)
class AskedStart:
    """Where frames are to come from.

    Attributes:
        kind: "auto": a record beside the source, popular seeds, and the base where the configuration tells that A began
            with its directions; "none"; "base"; "seed"; "path": a record, another adapter or a basis artefact.
        seed, offset: of the generator, and the numbers drawn before the A of any one module; None looks for it.
        path: what was named.
    """

    kind: Literal["auto", "none", "base", "seed", "path"]
    seed: int = 0
    offset: int | None = None
    path: Path | None = None

    @property
    def given(self) -> bool:
        """Whether it is meant to be used, so that it is an error if it cannot."""
        return self.kind in ("base", "seed", "path")


def asked_start(value: str | Path | None) -> AskedStart:
    """What `start` says.

    Args:
        value: "auto" or None, "none", "base", SEED or SEED:OFFSET in decimal digits, or a path.

    Raises:
        UsageError: if it is none of these, or a seed beyond 2^64 - 1.

    Example:
        >>> from adaptzip.fitting.asked_starts import asked_start
        >>> asked_start("42:1000").seed, asked_start("42:1000").offset
        (42, 1000)
    """
    match value:
        case None | "auto":
            return AskedStart("auto")
        case "none":
            return AskedStart("none")
        case "base":
            return AskedStart("base")
    seed = _SEED.fullmatch(value) if isinstance(value, str) else None
    if seed is not None:
        if int(seed[1]) > MOST_SEED:
            raise UsageError(f"the seed {seed[1]} of `start=` is beyond 2^64 - 1", hint="give the seed of the training")
        return AskedStart("seed", int(seed[1]), None if seed[2] is None else int(seed[2]))
    if not isinstance(value, str | Path) or not Path(value).exists():
        raise UsageError(
            f"start is {str(value)!r}, which is neither auto, none, base, a seed nor a path that exists",
            hint="give SEED, SEED:OFFSET, an adapter that began alike, or a folder with a recorded start",
        )
    return AskedStart("path", path=Path(value))
