"""What messages say of a name that a base model lacks: the nearest that it has, and how many it has of the kind."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from itertools import count, islice

from adaptzip.models.folder import BaseModel
from adaptzip.models.names import Renaming, locate

_COMPARED = 20000
"""Names that are compared at most, as comparing takes its time."""
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|(?<=\[)\d+(?=\]$)")


def similar(name: str, known: Iterable[str]) -> str:
    """The nearest of some names as the end of a message; empty where none is near."""
    near = difflib.get_close_matches(name, list(islice(known, _COMPARED)), n=2, cutoff=0.5)
    return f"; similar there: {', '.join(near)}" if near else ""


def misnumbered(base: BaseModel, module: str, renaming: Renaming) -> str:
    """How many the base has of a module's kind, where it has fewer than the module's number asks for; else empty."""
    for found in _NUMBER.finditer(module):
        before, after = module[: found.start()], module[found.end() :]
        if locate(base, f"{before}0{after}", renaming):
            there = next(n for n in count(1) if not locate(base, f"{before}{n}{after}", renaming))
            if there <= int(found[0]):
                return f"; it has {there} of {before}#{after}, numbered from 0"
    return ""
