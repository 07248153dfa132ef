"""An output appears whole or not at all, and nothing of the user's is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from adaptzip.errors import OutputError
from adaptzip.files.atomic import atomic_directory, atomic_file


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out.adz"
    with atomic_file(target) as handle:
        handle.write(b"half")
        assert not target.exists()
    assert target.read_bytes() == b"half"
    assert names(tmp_path) == ["out.adz"]
    assert target.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def interrupted_file(target: Path, error: type[BaseException]) -> None:
    with atomic_file(target, force=True) as handle:
        handle.write(b"half")
        raise error


def interrupted_folder(target: Path, error: type[BaseException]) -> None:
    with atomic_directory(target) as folder:
        (folder / "half").write_bytes(b"half")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
def test_nothing_is_left_of_an_interrupted_file_or_folder(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error):
        interrupted_file(tmp_path / "file", error)
    with pytest.raises(error):
        interrupted_folder(tmp_path / "folder", error)
    assert names(tmp_path) == []


def test_an_existing_file_stays_unless_forced(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"), atomic_file(target):
        pass
    with pytest.raises(KeyboardInterrupt):
        interrupted_file(target, KeyboardInterrupt)
    assert target.read_bytes() == b"old"
    with atomic_file(target, force=True) as handle:
        handle.write(b"new")
    assert target.read_bytes() == b"new"


def test_wrong_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="does not exist"), atomic_file(tmp_path / "no" / "out"):
        pass
    with pytest.raises(OutputError, match="found a folder"), atomic_file(tmp_path):
        pass
    with pytest.raises(OutputError, match="found a file"), atomic_directory(tmp_path / "file", force=True):
        pass


def test_files_of_subfolders_are_owned_by_path(tmp_path: Path) -> None:
    (tmp_path / "full" / "inner").mkdir(parents=True)
    (tmp_path / "full" / "inner" / "file").write_text("old")
    with (
        pytest.raises(OutputError, match="holds inner/file"),
        atomic_directory(tmp_path / "full", True, owned=lambda name: name == "file"),
    ):
        pass
    with atomic_directory(tmp_path / "full", True, owned=lambda name: name == "inner/file") as folder:
        (folder / "new").write_text("new")
    assert [path.name for path in (tmp_path / "full").rglob("*")] == ["new"]


def test_a_link_is_followed_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_file(tmp_path / "link", force=True) as handle:
        handle.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize(("code", "hint"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "a place you can write")])
def test_a_full_disk_is_named(code: int, hint: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nothing was left behind") as caught, atomic_file(tmp_path / "out"):
        raise OSError(code, os.strerror(code))
    assert hint in str(caught.value.hint)
    assert names(tmp_path) == []


def test_errors_about_other_files_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "out"):
        (tmp_path / "missing input").read_bytes()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written"), atomic_file(tmp_path / "out"):
        pass
