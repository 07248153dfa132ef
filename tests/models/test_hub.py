"""Base models that are named as on the Hub, from a cache, from a server on this machine, and where neither helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adaptzip.errors import BaseModelError
from adaptzip.models.folder import BaseModel
from adaptzip.models.hub import base_path, on_the_hub
from tests.cases.base_folders import write_llama
from tests.cases.hub_server import COMMIT, cached, serving


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    folder = write_llama(tmp_path / "made")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    "name", ["some/base", "hf://some/base", "hf:/some/base", f"some/base@{COMMIT}", Path("some/base")]
)
def test_a_model_in_the_cache(name: str | Path, files: dict[str, bytes], cache: Path) -> None:
    snapshot = cached(cache, "some/base", files)
    assert base_path(name) == snapshot
    opened = BaseModel.open(name)
    assert opened.path == snapshot
    name, *_ = opened.tensors
    assert opened.read(name).numel() > 0


def test_a_folder_comes_first(files: dict[str, bytes], cache: Path) -> None:
    cached(cache, "some/base", files)
    Path("some/base").mkdir(parents=True)
    assert base_path("some/base") == Path("some/base")


@pytest.mark.parametrize("name", ["base", "/some/base", "../base", "a/b/c", "some/base@", "hf://base", "some/ba se"])
def test_what_is_no_name_of_a_model(name: str, cache: Path) -> None:
    assert on_the_hub(name) is None
    assert base_path(name) == Path(name)
    assert base_path(None) is None


def test_neither_network_nor_cache(cache: Path) -> None:
    with pytest.raises(
        BaseModelError, match=r"some/base@v1: no such folder, the Hub cannot be asked .*Offline"
    ) as error:
        BaseModel.open("some/base@v1")
    assert "HF_HUB_OFFLINE" in str(error.value.hint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_fetching(revision: str, files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"pytorch_model.bin": b"other", "model.gguf": b"other", "tokenizer.json": b"{}", "picture.png": b"x"}
    with serving({"some/base": {**files, **more}}, monkeypatch) as asked:
        found = base_path(f"some/base{revision}")
    assert {path.name for path in found.iterdir()} == {*files, "tokenizer.json"}
    assert found.name == COMMIT
    assert (found / "model.safetensors").is_symlink()
    assert BaseModel.open(found).tensors
    assert not any(name.endswith((".bin", ".gguf", ".png")) for name in asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert base_path(f"some/base{revision}") == found


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("some/other", "some/other: no such folder, and no such model on the Hub", "spelling"),
        ("gated/base", "is gated on the Hub", "huggingface.co/gated/base"),
        ("some/base@v9", "some/base has no revision v9 on the Hub", "after the @"),
        ("some/numbers", "has no model.safetensors or pytorch_model.bin on the Hub", "repository that has"),
    ],
)
def test_what_the_hub_refuses(
    name: str, message: str, hint: str, files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = {"some/base": files, "gated/base": files, "some/numbers": {"config.json": b"{}", "a.Q4.gguf": b"x"}}
    with serving(served, monkeypatch), pytest.raises(BaseModelError, match=message) as error:
        base_path(name)
    assert hint in str(error.value.hint)
    assert "\n" not in str(error.value)


def test_a_download_that_breaks_off(files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **more: Any) -> str:
        raise RuntimeError("connection lost\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    with serving({"some/base": files}, monkeypatch), pytest.raises(BaseModelError, match="broke off") as error:
        base_path("some/base")
    assert "connection lost" in str(error.value)
    assert "kept" in str(error.value.hint)


def test_a_full_disk_is_no_fault_of_the_hub(
    files: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **more: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with serving({"some/base": files}, monkeypatch), pytest.raises(OSError, match="No space left"):
        base_path("some/base")


def test_without_huggingface_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptzip.models.hub.find_spec", lambda name: None)
    with pytest.raises(BaseModelError, match="huggingface_hub is not installed") as error:
        BaseModel.open("hf://some/base")
    assert "adaptzip[hub]" in str(error.value.hint)
    with pytest.raises(BaseModelError, match="some/base: does not exist") as error:
        BaseModel.open("some/base")
    assert "adaptzip[hub]" in str(error.value.hint)
