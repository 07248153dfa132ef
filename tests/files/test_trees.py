"""Trees of files: a folder and a bucket behave alike, and nothing leads outside."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptzip.errors import CheckpointError, OutputError, UsageError
from adaptzip.files.trees import Tree, content_of, tree_at
from adaptzip.files.trees.bucket import Bucket
from adaptzip.files.trees.folder import DRAFTS


@pytest.fixture(params=["folder", "bucket"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return tree_at(tmp_path / "store" if request.param == "folder" else f"memory://{secrets.token_hex(4)}/store")


def test_what_is_written_is_read(tree: Tree) -> None:
    for name, content in {"a.adz": b"1", "team/b.adz": b"22", "shared/c": b"", "é ü/d": b"4444"}.items():
        tree.write(name, content)
        assert tree.read(name) == content == content_of(tree, name, "a file")
    assert tree.names() == ["a.adz", "shared/c", "team/b.adz", "é ü/d"]
    assert tree.sizes() == {"a.adz": 1, "shared/c": 0, "team/b.adz": 2, "é ü/d": 4}
    assert tree.names("team") == ["team/b.adz"]
    assert (tree.size("team/b.adz"), tree.size("team"), tree.size("none")) == (2, None, None)
    with tree.near("team/b.adz") as path:
        assert path.read_bytes() == b"22"
        assert path.name == "b.adz"


def test_a_file_is_replaced_and_removed(tree: Tree) -> None:
    tree.write("a", b"1")
    before = tree.state("a")
    assert before is not None
    tree.write("a", b"2")
    assert tree.read("a") == b"2"
    assert tree.state("a") != before
    tree.remove("a")
    tree.remove("a")
    assert tree.state("a") is None
    assert tree.names() == []


def test_nothing_is_there_at_first(tree: Tree) -> None:
    assert not tree.there()
    assert tree.names() == tree.names("sub") == []
    with pytest.raises(FileNotFoundError):
        tree.read("a")
    with pytest.raises(FileNotFoundError), tree.near("a"):
        pass
    with pytest.raises(CheckpointError, match="store/a: no such file"):
        content_of(tree, "a", "a file")
    tree.write("a", b"")
    assert tree.there()


HOSTILE = (
    *("", "/", "/etc/passwd", "../a", "a/../b", "a//b", "a/", ".", "a/./b", "a\\b", "C:a", "a\0b", "a\nb", "a*"),
    *("x" * 256, "a.", "a ", "a./b", "\ud800"),
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_by_every_function(tree: Tree, name: str) -> None:
    for call in (tree.read, tree.size, tree.state, tree.remove, lambda name: tree.write(name, b"")):
        with pytest.raises(UsageError, match="is no name of a file in a store"):
            call(name)
    with pytest.raises(UsageError), tree.near(name):
        pass
    assert not tree.there()


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    outside, store = tmp_path / "outside", tmp_path / "store"
    outside.mkdir()
    store.mkdir()
    (outside / "a").write_bytes(b"secret")
    (store / "out").symlink_to(outside)
    (store / "a").symlink_to(outside / "a")
    tree = tree_at(store)
    for name in ("out/a", "a"):
        for call in (tree.read, tree.size, tree.state, tree.remove, lambda name: tree.write(name, b"")):
            with pytest.raises(UsageError, match="leads out of"):
                call(name)
    with pytest.raises(UsageError, match="leads out of"):
        tree.write("out/new/b", b"")
    assert [path.name for path in outside.iterdir()] == ["a"]
    assert (outside / "a").read_bytes() == b"secret"


def test_links_that_stay_inside_are_followed(tmp_path: Path) -> None:
    tree = tree_at(tmp_path)
    tree.write("a", b"1")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "nowhere").symlink_to("none")
    assert tree.read("b") == b"1"
    assert tree.names() == ["a", "b"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    tree = tree_at(tmp_path)
    tree.write("a", b"1")
    with pytest.raises(OutputError, match=r"a/b: cannot be written"):
        tree.write("a/b", b"2")
    assert list((tmp_path / DRAFTS).iterdir()) == []
    assert tree.names() == ["a"]


def test_readers_see_one_whole_file(tmp_path: Path) -> None:
    tree = tree_at(tmp_path)
    contents = [bytes([number]) * 100_000 for number in range(4)]
    tree.write("a", contents[0])

    def write(content: bytes) -> None:
        for _ in range(10):
            tree.write("a", content)

    writers = [threading.Thread(target=write, args=[content]) for content in contents]
    for writer in writers:
        writer.start()
    for _ in range(100):
        assert tree.read("a") in contents
    for writer in writers:
        writer.join()


def test_a_bucket_without_its_package_is_named() -> None:
    with pytest.raises(UsageError, match=r"^nothing://bucket/store: Protocol not known: nothing"):
        tree_at("nothing://bucket/store")


def test_a_url_of_a_folder_is_a_folder(tmp_path: Path) -> None:
    tree_at(f"file://{tmp_path}").write("a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1"


class Forbidding:
    """A file system whose package has errors of its own, as that of S3 has for missing credentials."""

    def invalidate_cache(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        def refuse(*_: Any, **__: Any) -> None:
            raise RuntimeError("Unable to locate\ncredentials")

        return refuse


def test_what_a_bucket_says_is_one_line() -> None:
    tree = Bucket("s3://bucket/store", Forbidding(), "bucket/store")
    looks: tuple[Callable[[], object], ...] = (tree.names, tree.there, lambda: tree.read("a"), lambda: tree.size("a"))
    for call in looks:
        with pytest.raises(CheckpointError, match=r"^s3://bucket/store.*: Unable to locate credentials$") as caught:
            call()
        assert "credentials" in str(caught.value.hint)
    changes: tuple[Callable[[], object], ...] = (lambda: tree.write("a", b""), lambda: tree.remove("a"))
    for change in changes:
        with pytest.raises(OutputError, match=r"^s3://bucket/store/a: cannot be .*: Unable to locate credentials$"):
            change()


def test_a_link_that_leads_in_a_circle_is_no_file(tmp_path: Path) -> None:
    tree = tree_at(tmp_path)
    tree.write("sound", b"1")
    (tmp_path / "circle").symlink_to("circle")
    assert tree.names() == ["sound"]
    with pytest.raises(UsageError, match="leads out"):
        tree.read("circle")
