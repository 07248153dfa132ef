"""Links in a base model's folder, and files that are not there: nothing from outside enters a merged model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers as tf

from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.restoring.merging import merge
from tests.cases.base_folders import adapter, llama_tensors, write_config, write_index, write_llama
from tests.cases.merged_files import TOLD


def outside(link: Path) -> None:
    """Put what stands there outside the base model, and a link in its place."""
    target = link.parent.with_name("outside") / link.name
    target.parent.mkdir(exist_ok=True)
    link.rename(target)
    link.symlink_to(target)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "1_Pooling"])
def test_a_link_out_of_the_folder(name: str, tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    (base / "tokenizer.json").write_text("{}")
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").write_text("{}")
    outside(base / name)
    with pytest.raises(RefusedError, match=rf"base/{name}: is a link that leads out of .* to {tmp_path}/outside"):
        merge(adapter(), base, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_link_out_of_the_folder_below_it_and_by_several_steps(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    (tmp_path / "secret.txt").write_text("secret")
    (base / "notes").mkdir()
    (base / "notes" / "a.txt").symlink_to("../b.txt")
    (base / "b.txt").symlink_to("../secret.txt")
    with pytest.raises(RefusedError, match="leads out of"):
        merge(adapter(), base, tmp_path / "merged")


def test_an_index_and_a_shard_that_are_links_out_of_the_folder(tmp_path: Path) -> None:
    for name in ("model.safetensors.index.json", "b.safetensors"):
        base = write_config(tmp_path / name / "base")
        write_index(base / "model.safetensors.index.json", llama_tensors(1.0), "a.safetensors", "b.safetensors")
        outside(base / name)
        with pytest.raises(RefusedError, match=f"{name}: is a link that leads out"):
            merge(adapter(), base, tmp_path / "merged")


def test_links_within_the_folder_and_a_folder_that_is_a_link(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    (base / "real.json").write_text('{"a": 1}')
    (base / "tokenizer.json").symlink_to("real.json")
    (base / "chat").mkdir()
    (base / "chat" / "template.txt").write_text("hello")
    (base / "again").symlink_to("chat")
    (tmp_path / "link").symlink_to("base")
    report = merge(adapter(), tmp_path / "link", tmp_path / "merged")
    assert {"tokenizer.json", "real.json", "chat/template.txt", "again/template.txt"} <= set(report.files)
    assert not any(path.is_symlink() for path in (tmp_path / "merged").rglob("*"))
    assert (tmp_path / "merged" / "again" / "template.txt").read_text() == "hello"


@pytest.mark.parametrize("target", [".", "..", "../chat"])
def test_a_folder_that_leads_back_to_itself(target: str, tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    (base / "chat").mkdir()
    (base / "chat" / "round").symlink_to(target)
    with pytest.raises(BaseModelError, match="leads back to"):
        merge(adapter(), base, tmp_path / "merged")


def test_links_that_are_not_carried_over_are_not_looked_at(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    (base / "flax_model.msgpack").symlink_to("gone")
    (tmp_path / "elsewhere").mkdir()
    (base / ".git").symlink_to(tmp_path / "elsewhere")
    assert set(merge(adapter(), base, tmp_path / "merged").files) == {"config.json", "model.safetensors", *TOLD}


def hub_cache(folder: Path, make: Callable[[Path], Path] = write_llama) -> Path:
    """A Hub cache with one snapshot, whose files are links to blobs; returns the snapshot."""
    made = make(folder / "made")
    (made / "1_Pooling").mkdir()
    (made / "1_Pooling" / "config.json").write_text("{}")
    root = folder / "models--a--b"
    snapshot = root / "snapshots" / "abc123"
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc123")
    files = [path for path in sorted(made.rglob("*")) if path.is_file()]
    for number, path in enumerate(files):
        link = snapshot / path.relative_to(made)
        link.parent.mkdir(parents=True, exist_ok=True)
        path.rename(root / "blobs" / f"{number:064x}")
        link.symlink_to("../" * len(link.relative_to(root).parts[1:]) + f"blobs/{number:064x}")
    return snapshot


def test_a_hub_caches_own_links(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    report = merge(adapter(), snapshot, tmp_path / "merged")
    assert set(report.files) == {"config.json", "model.safetensors", "1_Pooling/config.json", *TOLD}
    tf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")


@pytest.mark.parametrize("target", ["../../../secret.txt", "../../refs/main", "../other/config.json"])
def test_a_link_in_a_snapshot_that_leads_elsewhere(target: str, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    (tmp_path / "secret.txt").write_text("secret")
    (snapshot.parent / "other").mkdir()
    (snapshot.parent / "other" / "config.json").write_text("{}")
    (snapshot / "notes.txt").symlink_to(target)
    with pytest.raises(RefusedError, match=r"notes\.txt: is a link that leads out"):
        merge(adapter(), snapshot, tmp_path / "merged")


def test_blobs_that_are_themselves_a_link(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="leads out of"):
        merge(adapter(), snapshot, tmp_path / "merged")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "1_Pooling/config.json"])
def test_a_dangling_link_names_its_target(name: str, tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    link = snapshot / name
    link.resolve().unlink()
    with pytest.raises(BaseModelError, match=rf"{name}: is a link to \.\./.*blobs/0+\d, which is not there"):
        merge(adapter(), snapshot, tmp_path / "merged")


def test_a_dangling_shard_and_a_dangling_folder(tmp_path: Path) -> None:
    base = write_config(tmp_path / "base")
    write_index(base / "model.safetensors.index.json", llama_tensors(1.0), "a.safetensors", "b.safetensors")
    (base / "b.safetensors").unlink()
    (base / "b.safetensors").symlink_to("../blobs/b")
    with pytest.raises(BaseModelError, match=r"b\.safetensors: is a link to \.\./blobs/b, which is not there"):
        merge(adapter(), base, tmp_path / "merged")
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(BaseModelError, match="link: is a link to gone, which is not there"):
        merge(adapter(), tmp_path / "link", tmp_path / "merged")


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors.index.json", "b.safetensors", "tokenizer.json", "chat/template.txt"]
)
def test_a_git_lfs_pointer_wherever_it_is(name: str, tmp_path: Path) -> None:
    base = write_config(tmp_path / "base")
    write_index(base / "model.safetensors.index.json", llama_tensors(1.0), "a.safetensors", "b.safetensors")
    (base / name).parent.mkdir(exist_ok=True)
    (base / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(BaseModelError, match=f"{name}: is a git-LFS pointer") as error:
        merge(adapter(), base, tmp_path / "merged")
    assert error.value.hint == "run `git lfs pull` in its repository"


def test_a_base_folder_without_configuration(tmp_path: Path) -> None:
    base = write_llama(tmp_path / "base")
    (base / "config.json").unlink()
    report = merge(adapter(), base, tmp_path / "merged")
    assert set(report.files) == {"model.safetensors", *TOLD}
    assert json.dumps(report.as_dict())
