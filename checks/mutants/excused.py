"""Mutants that no test can notice, or that none should: `checks/mutants/equivalent.toml` gives the reason of each."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from checks.mutants.making import Mutant

LIST = Path(__file__).parent / "equivalent.toml"


@dataclass(frozen=True)
class Excuse:
    """Why a change of one line does not count.

    Attributes:
        file: path from the root of the repository.
        before: the lines as they are, without the blanks around them.
        after: the lines as mutated; "" for whatever they are changed to.
        reason: why no test can or should notice.
    """

    file: str
    before: str
    after: str
    reason: str


def excuses() -> list[Excuse]:
    """All of them."""
    told = tomllib.loads(LIST.read_text(encoding="utf-8"))
    return [
        Excuse(file, one["before"], one.get("after", ""), one["reason"]) for file, ones in told.items() for one in ones
    ]


def reason_for(mutant: Mutant, known: Sequence[Excuse]) -> str | None:
    """Why a mutant does not count, or None where it does."""
    for excuse in known:
        same = excuse.file == mutant.file and excuse.before == mutant.before
        if same and excuse.after in {"", mutant.after}:
            return excuse.reason
    return None
