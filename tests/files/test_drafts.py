"""What killed runs leave is settled by the next one; what is alive or somebody else's stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptzip.errors import AdaptzipWarning, OutputError
from adaptzip.files import drafts, locks
from adaptzip.files.atomic import atomic_directory, atomic_file
from adaptzip.files.drafts import draft, prefix_of, recover

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
NO_EXCHANGE = "from adaptzip.files import exchange as e\ne._call = lambda: None\n"
WRITE = """
import os, signal, sys
from pathlib import Path
from adaptzip.files.atomic import atomic_directory, atomic_file
{patch}
target = Path(sys.argv[1])
with atomic_{kind}(target, True{owned}) as made:
    {fill}
    {inside}
"""
POINTS = {
    "before the lock": f"import adaptzip.files.drafts as d\nd.open_file = lambda *a: {KILL}",
    "before it is locked": f"import adaptzip.files.drafts as d\nd.lock = lambda fd: {KILL}",
    "while it is filled": "",
    "while it is synced": f"os.fsync = lambda fd: {KILL}",
    "before the exchange": f"import adaptzip.files.exchange as e\ne.exchange = lambda *a: {KILL}",
    "after the exchange": f"import adaptzip.files.exchange as e\nwas = e.exchange\n"
    f"e.exchange = lambda *a: (was(*a), {KILL})",
    "while the old is removed": f"import shutil\nshutil.rmtree = lambda *a, **k: {KILL}",
    "between two steps": f"{NO_EXCHANGE}was = Path.rename\ncount = []\n"
    f"Path.rename = lambda a, b: {KILL} if count else (count.append(1), was(a, b))[1]",
    "after two steps": f"{NO_EXCHANGE}was = Path.rename\ncount = []\n"
    f"Path.rename = lambda a, b: (was(a, b), count.append(1), {KILL} if len(count) == 2 else None)",
}
NEW = {"after the exchange", "while the old is removed", "after two steps"}
posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")


def killed(target: Path, patch: str, *, kind: str = "directory", inside: str = "pass") -> None:
    fill = "(made / 'mine').write_text('new')" if kind == "directory" else "made.write(b'new')"
    owned = ", owned=lambda name: True" if kind == "directory" else ""
    code = WRITE.format(patch=patch, kind=kind, owned=owned, fill=fill, inside=inside)
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make(target: Path, content: str) -> None:
    with atomic_directory(target, True, owned=lambda _: True) as folder:
        (folder / "mine").write_text(content)


@posix
@pytest.mark.parametrize("point", POINTS)
def test_a_folder_is_old_or_new_whenever_its_run_is_killed(point: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    make(target, "old")
    killed(target, POINTS[point], inside=KILL if point == "while it is filled" else "pass")
    assert len(names(tmp_path)) == (1 if point == "between two steps" else 2)
    if point != "between two steps":
        assert (target / "mine").read_text() == ("new" if point in NEW else "old")
    recover(target)
    assert names(tmp_path) == ["out"]
    assert (target / "mine").read_text() == ("new" if point in NEW else "old")


@posix
def test_what_was_taken_away_comes_back_before_anything_else(tmp_path: Path) -> None:
    target = tmp_path / "out"
    make(target, "old")
    killed(target, POINTS["between two steps"])
    assert not target.exists()
    with pytest.raises(OutputError, match="exists already"), atomic_directory(target):
        pass
    assert (target / "mine").read_text() == "old"
    assert names(tmp_path) == ["out"]


@posix
def test_what_somebody_wrote_since_does_not_cost_what_was_taken_away(tmp_path: Path) -> None:
    target = tmp_path / "out"
    make(target, "old")
    killed(target, POINTS["between two steps"])
    target.mkdir()
    (target / "mine").write_text("other")
    with pytest.warns(AdaptzipWarning, match="is what .*out was before a run that was killed"):
        make(target, "third")
    assert (target / "mine").read_text() == "third"
    assert [p.read_text() for p in tmp_path.glob(".*/old/mine")] == ["old"]


@posix
@pytest.mark.parametrize(
    "point", ["before the lock", "before it is locked", "while it is filled", "while it is synced"]
)
def test_a_file_is_old_whenever_its_run_is_killed(point: str, tmp_path: Path) -> None:
    target = tmp_path / "out.adz"
    target.write_bytes(b"old")
    killed(target, POINTS[point], kind="file", inside=KILL if point == "while it is filled" else "pass")
    assert target.read_bytes() == b"old"
    assert len(names(tmp_path)) == 2
    with atomic_file(target, True) as handle:
        handle.write(b"next")
    assert target.read_bytes() == b"next"
    assert names(tmp_path) == ["out.adz"]


@pytest.fixture
def alive(tmp_path: Path) -> Iterator[Path]:
    """The target of another process that is about to finish it."""
    target = tmp_path / "out"
    code = WRITE.format(
        patch="",
        kind="directory",
        owned=", owned=lambda name: True",
        fill="(made / 'mine').write_text('theirs')",
        inside="print('at work', flush=True); sys.stdin.readline()",
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stdout.readline() == "at work\n"
    yield target
    child.communicate("go on\n", timeout=60)
    assert child.returncode == 0
    assert (target / "mine").read_text() == "theirs"
    assert names(tmp_path) == ["out"]


@posix
def test_a_run_that_is_alive_keeps_its_draft(alive: Path) -> None:
    make(alive, "ours")
    assert (alive / "mine").read_text() == "ours"
    assert len(names(alive.parent)) == 2


def test_two_writers_of_one_process_do_not_meet(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "out", True) as first:
        with atomic_file(tmp_path / "out", True) as second:
            second.write(b"second")
        first.write(b"first")
    assert (tmp_path / "out").read_bytes() == b"first"
    assert names(tmp_path) == ["out"]


def test_what_merely_looks_like_a_draft_stays(tmp_path: Path) -> None:
    target = tmp_path / "out"
    start = prefix_of(target)
    file = Path(f"{start}0123456789ab.adaptzip")
    file.write_text("mine")
    theirs = [Path(f"{start}{number:012d}.adaptzip") for number in range(4)]
    for folder in theirs:
        folder.mkdir()
    (theirs[0] / "thesis.txt").write_text("mine")
    (theirs[1] / "lock").touch()
    (theirs[1] / "thesis.txt").write_text("mine")
    (theirs[2] / "lock").write_text("not empty")
    (theirs[3] / "new").write_text("no lock")
    (tmp_path / ".out.0123456789ab.tmp").write_text("mine")
    (tmp_path / ".out2.0123456789ab.adaptzip").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "lock").touch()
    Path(f"{start}ffffffffffff.adaptzip").symlink_to(outside)
    before = sorted(tmp_path.rglob("*"))
    make(target, "new")
    assert sorted(p for p in tmp_path.rglob("*") if target not in (p, *p.parents)) == before


def test_a_draft_belongs_to_one_target(tmp_path: Path) -> None:
    """Names that begin alike, are long, or hold what patterns are made of."""
    long = "模" * 83
    targets = [tmp_path / name for name in ("out", "out.1", "o[u]t", long, long[:-1], "a" * 255)]
    assert len({prefix_of(target) for target in targets}) == len(targets)
    for target in targets:
        with draft(target) as folder:
            for other in targets:
                recover(other)
            assert folder.is_dir()
        with atomic_file(target) as handle:
            handle.write(b"x")
    assert names(tmp_path) == sorted(target.name for target in targets)


def test_a_draft_that_was_taken_for_a_leftover_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run comes between the making of the folder, of its lock, and the locking."""
    target, was_open, was_lock = tmp_path / "out", locks.open_file, locks.lock
    calls: list[Path] = []

    def open_file(path: Path, flags: int = 0) -> int:
        calls.append(path)
        if len(calls) == 1:
            path.parent.rmdir()
        return was_open(path, flags)

    def lock(descriptor: int) -> None:
        was_lock(descriptor)
        if len(calls) == 2:
            calls[-1].unlink()
            calls[-1].parent.rmdir()

    monkeypatch.setattr(drafts, "open_file", open_file)
    monkeypatch.setattr(drafts, "lock", lock)
    with draft(target) as folder:
        assert len(calls) == 3
        assert folder == calls[-1].parent
        assert folder.is_dir()
    assert names(tmp_path) == []


def test_without_locks_drafts_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network drives: a draft may be alive then, which nobody can tell."""

    def lock(descriptor: int) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr(drafts, "lock", lock)
    with draft(tmp_path / "out") as folder:
        make(tmp_path / "out", "new")
        assert folder.is_dir()
    assert names(tmp_path) == ["out"]
