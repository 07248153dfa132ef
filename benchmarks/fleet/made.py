"""What a method makes of adapters of one base: files, all of which count, and the adapters that come back of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter
from adaptzip.core.compressed import Compressed
from adaptzip.fitting.compression import make_from
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Original, Request
from adaptzip.restoring.reading import read
from benchmarks.fleet.entries import Entry


@dataclass(frozen=True)
class Among:
    """Adapters of one base by their names, read once, and looked through once for what their A began with.

    Attributes:
        members: those that shared parts are made of.
        left_out: those that meet the shared parts as new ones.
        paths: of all.
    """

    members: Mapping[str, Original]
    left_out: Mapping[str, Original]
    paths: Mapping[str, Path]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Among:
        """Read them."""
        members, left_out = (
            {entry.name: load_source(entry.path, Request()) for entry in entries if entry.left_out is out}
            for out in (False, True)
        )
        return cls(members, left_out, {entry.name: entry.path for entry in entries})

    @cached_property
    def all(self) -> dict[str, Original]:
        """Members first."""
        return {**self.members, **self.left_out}

    @property
    def adapters(self) -> list[Adapter]:
        """The members'."""
        return [one.adapter for one in self.members.values()]


@dataclass(frozen=True)
class Made:
    """What a method makes at one setting.

    Attributes:
        adapters: what is read back, of the adapters that the method can hold.
        shared: bytes of files that several adapters need.
        own: bytes of each adapter's own file; none where files hold all of them at once, and count as shared.
        error: what plain files were asked for.
    """

    adapters: Mapping[str, Adapter]
    shared: int
    own: Mapping[str, int] = field(default_factory=dict)
    error: float | None = None

    @property
    def bytes(self) -> int:
        """Of all files."""
        return self.shared + sum(self.own.values())


def compressed(source: Original, path: Path, request: Request, basis: Path | None = None) -> tuple[Adapter, int]:
    """What is read back of the file that a request makes, and its bytes."""
    made: Compressed = make_from(source, request).compressed
    writer.write(made, path, force=True)
    return read(path, basis=basis), path.stat().st_size


def plain(sources: Mapping[str, Original], error: float, folder: Path) -> Made:
    """`svd` alone, a file for each adapter, all at one error."""
    made = {name: compressed(one, folder / "plain.adz", Request(max_error=error)) for name, one in sources.items()}
    return of_files(made, error=error)


def of_files(made: Mapping[str, tuple[Adapter, int]], shared: int = 0, error: float | None = None) -> Made:
    """What adapters with a file each come to."""
    adapters = {name: adapter for name, (adapter, _) in made.items()}
    return Made(adapters, shared, {name: size for name, (_, size) in made.items()}, error)
