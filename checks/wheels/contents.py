"""What has to be in a wheel and in an sdist, told from the files that Git tracks."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path

from packaging.metadata import Metadata


def tracked(root: Path) -> frozenset[str]:
    """The files that Git tracks, as paths below the repository's root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    return frozenset(listed.stdout.split("\0")) - {""}


def sdist_problems(sdist: Path, wanted: Collection[str]) -> Iterator[str]:
    """Where an sdist is not the repository: the tests run in it as they do there, and nothing else is published."""
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive.getmembers() if not member.isdir()]
    yield from _differences(sdist, set(names) - {"PKG-INFO"}, set(wanted))


def wheel_problems(wheel: Path, wanted: Collection[str]) -> Iterator[str]:
    """Where a wheel is not the package alone, all of it, with metadata that indexes take, and the licence beside it."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = {name.partition("/")[2]: name for name in names if name.partition("/")[0].endswith(".dist-info")}
        for name in sorted({"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"} - metadata.keys()):
            yield f"{wheel.name}: lacks {name} in its metadata"
        if "METADATA" in metadata:
            yield from (f"{wheel.name}: {each}" for each in metadata_problems(archive.read(metadata["METADATA"])))
    yield from _differences(wheel, names - {*metadata.values()}, {n for n in wanted if n.startswith("adaptzip/")})


def metadata_problems(text: bytes) -> Iterator[str]:
    """Where the metadata of a wheel is not as the specification of core metadata has it."""
    try:
        Metadata.from_email(text)
    except ExceptionGroup as errors:
        yield from (f"METADATA: {error}" for error in errors.exceptions)


def _differences(archive: Path, found: Collection[str], wanted: Collection[str]) -> Iterator[str]:
    for name in sorted(set(wanted) - set(found)):
        yield f"{archive.name}: lacks {name}, which Git tracks"
    for name in sorted(set(found) - set(wanted)):
        yield f"{archive.name}: holds {name}, which Git does not track or which has no place there"
