"""An output that is, holds, lies in or links to an input is refused, however it is spelled."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptzip.errors import UsageError
from adaptzip.files.inputs import check_apart


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "ad"
    folder.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (folder / name).write_text(name)
    return folder


def link(path: Path, to: Path) -> Path:
    path.symlink_to(to)
    return path


def hard_link(path: Path, to: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    os.link(to, path)
    return path


WAYS: dict[str, Callable[[Path], Path]] = {
    "itself": lambda ad: ad / "adapter_model.safetensors",
    "its configuration": lambda ad: ad / "adapter_config.json",
    "its folder": lambda ad: ad,
    "a folder above": lambda ad: ad.parent,
    "in a folder of it": lambda ad: ad / "sub" / "out.adz",
    "another spelling": lambda ad: ad.parent / "ad" / ".." / "ad" / "." / "adapter_model.safetensors",
    "a link to it": lambda ad: link(ad.parent / "l", ad / "adapter_model.safetensors"),
    "a link to a link": lambda ad: link(ad.parent / "l", link(ad.parent / "k", ad / "adapter_config.json")),
    "a link to the folder": lambda ad: link(ad.parent / "l", ad) / "new.adz",
    "a link to nothing yet": lambda ad: link(ad.parent / "l", ad / "new.adz"),
    "a link that lies in it": lambda ad: link(ad / "l", ad.parent / "elsewhere.adz"),
    "a hard link": lambda ad: hard_link(ad.parent / "h", ad / "adapter_model.safetensors"),
    "a folder with a hard link": lambda ad: hard_link(ad.parent / "o" / "h", ad / "adapter_config.json").parent,
}


@pytest.mark.parametrize("way", WAYS)
def test_an_output_at_an_adapter_is_refused(way: str, adapter: Path) -> None:
    output = WAYS[way](adapter)
    with pytest.raises(UsageError, match=r"the output would (replace|lie in) .*its source") as caught:
        check_apart(output, source=adapter)
    assert str(caught.value).startswith(f"{output}: ")
    with pytest.raises(UsageError, match="the teacher"):
        check_apart(output, source=None, teacher=[adapter.parent / "absent", adapter])


def test_relative_paths_are_told_apart_as_well(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(adapter)
    for output in ("adapter_config.json", "../ad/x.adz", ".", ".."):
        with pytest.raises(UsageError):
            check_apart(output, source=".")
    check_apart("../x.adz", source=".")


def test_a_weight_file_counts_with_what_is_read_beside_it(adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    part = adapter / "adapter_model-00001-of-00002.safetensors"
    part.write_text("part")
    for output in (weights, adapter / "adapter_config.json", part, adapter):
        with pytest.raises(UsageError, match="its source"):
            check_apart(output, source=weights)
    for name in ("adapter_model.adz", "notes.txt", "out"):
        check_apart(adapter / name, source=weights)


def test_what_links_in_a_base_lead_to_belongs_to_it(tmp_path: Path) -> None:
    """As in a Hub cache, whose snapshots are links to blobs."""
    blob, snapshot = tmp_path / "blobs" / "0123", tmp_path / "snapshots" / "main"
    for folder in (blob.parent, snapshot, tmp_path / "far"):
        folder.mkdir(parents=True)
    blob.write_text("weights")
    link(snapshot / "model.safetensors", blob)
    link(snapshot / "pooling", tmp_path / "far")
    for output in (blob, blob.parent, tmp_path / "far" / "out.adz"):
        with pytest.raises(UsageError, match="a part of the base model"):
            check_apart(output, base=snapshot)
    check_apart(tmp_path / "out.adz", base=snapshot)


@pytest.mark.parametrize("role", ["plan", "basis", "data", "calibration", "config"])
def test_a_file_that_is_read_is_never_an_output(role: str, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_text("{}")
    with pytest.raises(UsageError, match="would replace the"):
        check_apart(hard_link(tmp_path / "same", file), **{role: str(file)})
    check_apart(tmp_path / "other", **{role: file})


def test_what_is_not_there_is_left_to_whoever_reads_it(tmp_path: Path) -> None:
    check_apart(tmp_path / "out", source=tmp_path / "no" / "adapter_model.safetensors", base=tmp_path / "none")


def test_neighbours_and_what_is_in_memory_are_no_inputs(adapter: Path) -> None:
    (adapter.parent / "ad2").mkdir()
    for output in ("ad.adz", "ad2", "ad2/x", "ad.basis"):
        check_apart(adapter.parent / output, source=adapter, base=None, basis=object(), data=[object()])


def test_of_a_folder_with_artefacts_these_alone_are_read(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "x.basis").write_bytes(b"")
    check_apart(tmp_path / "out", basis=tmp_path)
    for output in (tmp_path / "shared" / "x.basis", tmp_path / "shared", tmp_path):
        with pytest.raises(UsageError, match=r"the basis .*x\.basis"):
            check_apart(output, basis=tmp_path)
    with pytest.raises(UsageError, match="would lie in its source"):
        check_apart(tmp_path / "out", source=tmp_path)
