"""What the adapters of a fleet are called."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adaptzip.errors import CheckpointError, UsageError
from adaptzip.fleet.jobs import compress_fleet
from adaptzip.fleet.sources import sources_of
from tests.cases.fleets import make_fleet
from tests.cases.unlistable import unlistable


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    make_fleet(tmp_path / "fleet" / "team", 2)
    make_fleet(tmp_path / "fleet" / "other", 1)
    return tmp_path / "fleet"


def names(*paths: str | Path) -> list[str]:
    return [source.name for source in sources_of(paths)]


def test_adapters_are_found_at_any_depth(fleet: Path) -> None:
    assert names(fleet) == ["other/a000", "team/a000", "team/a001"]
    assert names(fleet / "team") == ["a000", "a001"]
    assert names(fleet / "team" / "a001") == ["a001"]
    assert names(str(fleet / "team" / "*")) == ["a000", "a001"]


def test_single_files_are_adapters_too(fleet: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in range(2):
        weights = fleet / "team" / f"a00{number}" / "adapter_model.safetensors"
        shutil.copy(weights, flat / f"style.v{number}.safetensors")
    assert names(flat) == ["style.v0", "style.v1"]
    assert names(flat / "style.v1.safetensors") == ["style.v1"]


def test_names_that_clash_are_refused(fleet: Path) -> None:
    with pytest.raises(UsageError, match=r"would both be called 'a000'"):
        sources_of([fleet / "team", fleet / "other"])
    (fleet / "team" / "a001").rename(fleet / "team" / "A000")
    with pytest.raises(UsageError, match="differ by case or accents' spelling alone"):
        sources_of([fleet / "team"])
    (fleet / "team" / "A000").rename(fleet / "team" / "caf\u00e9")
    (fleet / "team" / "a000").rename(fleet / "team" / "cafe\u0301")
    with pytest.raises(UsageError, match="differ by case or accents' spelling alone"):
        sources_of([fleet / "team"])


def test_a_file_beside_folders_is_an_adapter_of_its_own(fleet: Path) -> None:
    shutil.copy(fleet / "team" / "a000" / "adapter_model.safetensors", fleet / "style.safetensors")
    (fleet / ".cache").mkdir()
    shutil.copy(fleet / "style.safetensors", fleet / ".cache" / "adapter_model.safetensors")
    assert names(fleet) == ["other/a000", "style", "team/a000", "team/a001"]


def test_a_store_is_no_source_of_its_own(fleet: Path) -> None:
    shutil.copytree(fleet / "team", fleet / "store")
    found = [source.name for source in sources_of([fleet], str(fleet / "store"))]
    assert found == ["other/a000", "team/a000", "team/a001"]
    with pytest.raises(UsageError, match="is the store that adapters are put into"):
        sources_of([fleet], str(fleet))


def test_a_folder_that_is_called_as_a_file_is_refused(fleet: Path) -> None:
    shutil.copytree(fleet / "team" / "a000", fleet / "team" / "a001.adz" / "x")
    with pytest.raises(UsageError, match=r"'team/a001.adz/x' would lie in the file team/a001.adz"):
        sources_of([fleet])


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file or folder"):
        sources_of([tmp_path / "nothing"])
    with pytest.raises(UsageError, match="nothing fits this pattern"):
        sources_of([tmp_path / "x*"])
    with pytest.raises(UsageError, match="no adapters were named"):
        sources_of([])


def test_a_source_that_changes_has_another_mark(fleet: Path) -> None:
    before = sources_of([fleet])
    config = fleet / "team" / "a000" / "adapter_config.json"
    config.write_text(config.read_text() + "\n")
    after = sources_of([fleet])
    assert [a.mark == b.mark for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_links_are_followed_and_keep_their_names(fleet: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "mine").symlink_to(fleet / "team" / "a000")
    (linked / "again").symlink_to(linked)
    assert names(linked) == ["mine"]
    assert names(linked / "mine") == ["mine"]


def test_an_adapters_checkpoints_are_its_own(fleet: Path) -> None:
    shutil.copytree(fleet / "team" / "a000", fleet / "team" / "a000" / "checkpoint-10")
    assert names(fleet) == ["other/a000", "team/a000", "team/a001"]


def test_stores_are_no_sources(fleet: Path, tmp_path: Path) -> None:
    compress_fleet([fleet / "other"], fleet / "store")
    assert names(fleet / "other") == ["a000"]
    for named in (fleet, fleet / "store"):
        with pytest.raises(UsageError, match=r"store: is a store, whose adapters are compressed already"):
            sources_of([named])
    # Beside its own store a fleet may lie, and files of another are named one by one.
    assert "other/a000" in [source.name for source in sources_of([fleet], str(fleet / "store"))]
    assert names(fleet / "store" / "a000.adz") == ["a000"]


def test_an_adapter_without_weights_is_one_that_cannot_be_read(fleet: Path, tmp_path: Path) -> None:
    (fleet / "team" / "half").mkdir()
    shutil.copy(fleet / "team" / "a000" / "adapter_config.json", fleet / "team" / "half")
    assert "team/half" in names(fleet)
    done = compress_fleet([fleet], tmp_path / "store")
    assert list(done.failed) == ["team/half"]


def test_a_folder_that_cannot_be_listed_is_refused(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlistable(monkeypatch, "team")
    with pytest.raises(CheckpointError, match="team: cannot be listed: Permission denied"):
        sources_of([fleet])
