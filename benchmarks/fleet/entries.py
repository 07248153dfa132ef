"""The adapters of a fleet on disk: of which kind each is, and whether shared parts are built without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import adaptzip
from adaptzip.core.adapter import Adapter
from benchmarks.fleet.gains import MANIFEST, Trained, manifest
from benchmarks.fleet.members import COMMON, is_left_out

CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Entry:
    """One adapter.

    Attributes:
        left_out: shared parts are made without it.
        same_start: its A began as that of others.
        trained: what it has learnt; None where nobody trained it.
    """

    name: str
    kind: str
    path: Path
    left_out: bool
    same_start: bool = False
    trained: Trained | None = None

    def adapter(self) -> Adapter:
        return adaptzip.read(self.path)


def load(fleet: Path) -> list[Entry]:
    """The adapters of a trained fleet by its manifest, or the PEFT folders of another as one kind."""
    if (fleet / MANIFEST).exists():
        return [_trained(fleet, one) for one in manifest(fleet)]
    paths = sorted(path.parent for path in fleet.rglob(CONFIG))
    return [
        Entry(path.relative_to(fleet).as_posix(), fleet.name, path, is_left_out(number))
        for number, path in enumerate(paths)
    ]


def _trained(fleet: Path, one: Trained) -> Entry:
    member = one.member
    number = int(member.name.rpartition("/")[2])
    return Entry(
        member.name, member.kind, fleet / member.name, is_left_out(number), member.start == COMMON, trained=one
    )


def by_kind(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """The adapters of each base."""
    kinds: dict[str, list[Entry]] = {}
    for entry in entries:
        kinds.setdefault(entry.kind, []).append(entry)
    return kinds
