"""Adapters by name, unpacked once however many ask, and anew where their file changes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptzip
from adaptzip.files.trees import Tree, tree_at
from adaptzip.fleet.store.access import fetch
from adaptzip.restoring import exporting
from adaptzip.serving.places import cache_at
from adaptzip.serving.resolving import Resolver, number_of
from adaptzip.serving.unpacking import Folders, key_of
from adaptzip.testing.adapters import dense
from tests.cases.hub_server import serving
from tests.cases.stores import Team, add, plain

ROOT = Path(__file__).parents[2]
MUCH = 10**9


@pytest.fixture
def tree(tmp_path: Path, alone: Path) -> Tree:
    found = tree_at(tmp_path / "store")
    add(found, alone, "a")
    return found


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "cache", MUCH)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are exported from now on."""
    made: list[Path] = []
    real: Callable[..., Any] = exporting.export

    def export(source: object, output: Path, **options: Any) -> None:
        made.append(output)
        real(source, output, **options)

    monkeypatch.setattr("adaptzip.serving.unpacking.export", export)
    return made


def test_a_folder_is_the_adapter_with_one_rank(tree: Tree, folders: Folders, team: Team) -> None:
    add(tree, team.files[0], "team/b", basis=team.basis)
    for name, file in {"a": tree_at(tree.location).read("a.adz"), "team/b": team.files[0].read_bytes()}.items():
        served = Resolver(tree, folders).get(name)
        assert served is not None
        config = json.loads((served.path / "adapter_config.json").read_text())
        assert config["r"] == config["lora_alpha"]
        assert not config.get("rank_pattern")
        found = adaptzip.read(served.path)
        expected = adaptzip.reconstruct(adaptzip.open(file), basis=team.basis)
        for module in expected.modules:
            torch.testing.assert_close(dense(found, module), dense(expected, module))


def test_requests_at_once_share_the_work(tree: Tree, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    resolver = Resolver(tree, folders)

    async def ask() -> list[Any]:
        asked = [asyncio.create_task(resolver.find("a")) for _ in range(20)]
        await asyncio.sleep(0)
        asked[3].cancel()
        return await asyncio.gather(*asked, return_exceptions=True)

    found = asyncio.run(ask())
    assert len(made) == 1
    assert isinstance(found.pop(3), asyncio.CancelledError)
    assert len({str(one) for one in found}) == 1
    assert found[0].path == made[0]
    assert asyncio.run(resolver.find("a")) == found[0]
    assert len(made) == 1


def test_threads_share_the_work(tree: Tree, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted(monkeypatch)
    resolvers = [Resolver(tree, folders) for _ in range(4)]
    threads = [threading.Thread(target=one.get, args=["a"]) for one in resolvers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


ASK = """
import sys
from pathlib import Path
from adaptzip.files.trees import tree_at
from adaptzip.serving.resolving import Resolver
from adaptzip.serving.unpacking import Folders
found = Resolver(tree_at(sys.argv[1]), Folders(Path(sys.argv[2]), 10**9)).get("a")
print(found.path, found.number, (found.path / "adapter_model.safetensors").stat().st_ino)
"""


def test_processes_share_the_work(tree: Tree, folders: Folders) -> None:
    words = [sys.executable, "-c", ASK, tree.location, str(folders.root)]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    said = [process.communicate()[0] for process in running]
    served = Resolver(tree, folders).get("a")
    assert served is not None
    inode = (served.path / "adapter_model.safetensors").stat().st_ino
    assert said == [f"{served.path} {served.number} {inode}\n"] * 2


def test_a_file_that_changes_gets_another_folder(tree: Tree, folders: Folders) -> None:
    resolver = Resolver(tree, folders)
    before = resolver.get("a")
    assert before is not None
    held = (before.path / "adapter_model.safetensors").read_bytes()
    add(tree, plain(5), "a", force=True, start="none")
    after = resolver.get("a")
    assert after is not None
    assert (after.path, after.number) != (before.path, before.number)
    assert (before.path / "adapter_model.safetensors").read_bytes() == held
    assert Resolver(tree, folders).get("a") == after
    tree.remove("a.adz")
    assert resolver.get("a") is None


def test_readers_of_a_file_that_changes_get_one_or_the_other(tree: Tree, folders: Folders, tmp_path: Path) -> None:
    contents = [tree.read("a.adz"), adaptzip.compress(plain(5), start="none").to_bytes()]
    resolver = Resolver(tree, folders)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for content in contents:
                tree.write("a.adz", content)

    thread = threading.Thread(target=change)
    thread.start()
    found = [resolver.get("a") for _ in range(30)]
    stop.set()
    thread.join()
    assert None not in found
    assert len({one.path for one in found if one is not None}) <= 2
    tree.write("a.adz", contents[0])
    last = resolver.get("a")
    assert last is not None
    assert last.path.name == key_of(fetch(tree, "a"))


def test_the_least_recently_used_go_first_and_none_just_used(tree: Tree, tmp_path: Path) -> None:
    for number, name in enumerate("bcd"):
        add(tree, plain(10 + number), name, start="none")
    small = Folders(tmp_path / "cache", 1)
    resolver = Resolver(tree, small)
    paths = [found.path for name in "abc" if (found := resolver.get(name)) is not None]
    assert all(path.is_dir() for path in paths)
    for path, age in zip(paths, (7200, 3600, 60), strict=True):
        mark = path / "adapter_config.json"
        os.utime(mark, (time.time() - age,) * 2)
    size = sum(file.stat().st_size for file in paths[2].iterdir())
    Folders(tmp_path / "cache", 3 * size).trim()
    assert [path.is_dir() for path in paths] == [True, True, True]
    Folders(tmp_path / "cache", 2 * size).trim()
    assert [path.is_dir() for path in paths] == [False, True, True]
    resolver.get("d")
    assert [path.is_dir() for path in paths] == [False, False, True]
    again = resolver.get("a")
    assert again is not None
    assert again.path == paths[0]
    assert paths[0].is_dir()


def test_a_folder_whose_lock_is_held_stays(tree: Tree, tmp_path: Path) -> None:
    served = Resolver(tree, Folders(tmp_path / "cache", 1)).get("a")
    folders = Folders(tmp_path / "cache", 1, grace=0)
    assert served is not None
    with folders._locked(served.path.name):
        folders.trim()
        assert served.path.is_dir()
    folders.trim()
    assert not served.path.exists()


def test_what_a_killed_run_left_of_a_folder_is_made_again(tree: Tree, folders: Folders) -> None:
    resolver = Resolver(tree, folders)
    served = resolver.get("a")
    assert served is not None
    whole = sorted(path.name for path in served.path.iterdir())
    (served.path / "adapter_config.json").unlink()
    assert resolver.get("a") == served
    assert sorted(path.name for path in served.path.iterdir()) == whole


@pytest.mark.parametrize("lost", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_folder_that_lacks_a_file_is_made_again(tree: Tree, folders: Folders, lost: str) -> None:
    """A program that tidies by age takes files one by one."""
    resolver = Resolver(tree, folders)
    first = resolver.get("a")
    assert first is not None
    (first.path / lost).unlink()
    assert resolver.get("a") == first
    assert (first.path / lost).is_file()


@pytest.mark.parametrize("name", ["x" * 6000, "x/" * 3000 + "x", "é" * 1025, "x" * 300])
def test_names_that_no_file_can_have_pass_on(tree: Tree, folders: Folders, name: str) -> None:
    resolver = Resolver(tree, folders)
    assert resolver.get(name) is None
    assert asyncio.run(resolver.find(name)) is None


def test_damage_is_one_line_and_passes_on(
    tree: Tree, folders: Folders, team: Team, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    tree.write("broken.adz", b"not an adapter")
    tree.write("lonely.adz", team.files[0].read_bytes())
    (tmp_path / "store" / "out.adz").symlink_to("/etc/passwd")
    resolver = Resolver(tree, folders)
    for name, told in {"broken": "broken.adz: ", "lonely": "which the store lacks", "out": "leads out of"}.items():
        caplog.clear()
        assert resolver.get(name) is None
        assert resolver.get(name) is None
        (record,) = caplog.records
        assert told in record.getMessage()
        assert "\n" not in record.getMessage()
    caplog.clear()
    assert resolver.get("none") is None
    assert resolver.get("../../store/a") is None
    assert caplog.records == []
    tree.write("broken.adz", tree.read("a.adz"))
    assert resolver.get("broken") is not None


def test_another_base_is_told_of_once(folders: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = tree_at(tmp_path / "store")
    add(tree, plain(), "a", base_name="somebody/base", start="none")
    resolver = Resolver(tree, folders)
    with caplog.at_level(logging.WARNING):
        assert resolver.get("a", "somebody/base") is not None
        assert caplog.records == []
    other = Resolver(tree, folders)
    for _ in range(2):
        assert other.get("a", "/models/base") is not None
    assert [record.getMessage() for record in caplog.records] == [
        "a: was trained on somebody/base, and /models/base is served"
    ]


def test_a_store_on_the_hub(folders: Folders, tmp_path: Path, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tree_at(tmp_path / "source")
    add(source, team.files[0], "team/a", basis=team.basis)
    files = {name: source.read(name) for name in source.names()}
    with serving({"somebody/store": files}, monkeypatch):
        tree = tree_at("hf://somebody/store")
        served = Resolver(tree, folders).get("team/a")
        assert Resolver(tree, folders).get("none") is None
    assert served is not None
    found = adaptzip.read(served.path)
    expected = adaptzip.read(team.files[0], basis=team.basis)
    for module in expected.modules:
        torch.testing.assert_close(dense(found, module), dense(expected, module))


def test_numbers_differ_and_are_the_same_everywhere() -> None:
    assert number_of("a") == number_of("a") != number_of("b")
    assert all(1 <= number_of(str(key)) < 2**31 for key in range(1000))
    assert number_of("x" * 22) == 1_777_276_433


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_at(str(tmp_path)) == tmp_path
    monkeypatch.setenv("ADAPTZIP_CACHE", str(tmp_path))
    assert cache_at(None) == tmp_path / "served"
    monkeypatch.setenv("ADAPTZIP_CACHE", "off")
    assert cache_at(None).is_dir()
    assert cache_at(None) != cache_at(None)
