"""The plug-in as vLLM calls it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from adaptzip.errors import UsageError
from adaptzip.files.trees import tree_at
from adaptzip.serving import vllm
from tests.cases.stores import add
from tests.cases.vllm_interface import interface

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    add(tree_at(tmp_path / "store"), alone, "team/a")
    monkeypatch.setenv(vllm.STORE, str(tmp_path / "store"))
    monkeypatch.setenv(vllm.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(vllm.LIMIT, raising=False)
    return tmp_path / "store"


def test_the_entry_point_is_what_vllm_calls() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {"adaptzip": "adaptzip.serving.vllm:register"}
    assert callable(vllm.register)


def test_without_a_store_nothing_is_imported() -> None:
    code = (
        "import os, sys; os.environ.pop('ADAPTZIP_STORE', None); import adaptzip.serving.vllm as p; p.register();"
        "print(*(m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'vllm', 'fsspec', 'asyncio')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_a_request_by_name_gets_a_folder(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lora = interface(monkeypatch)
    vllm.register()
    resolver = lora.LoRAResolverRegistry.get_resolver("adaptzip")
    assert isinstance(resolver, lora.LoRAResolver)
    request = asyncio.run(resolver.resolve_lora("somebody/base", "team/a"))
    assert request.lora_name == "team/a"
    assert Path(request.lora_path).parent == tmp_path / "cache"
    assert (Path(request.lora_path) / "adapter_model.safetensors").is_file()
    # vLLM writes a number of its own into what it is given.
    number, request.lora_int_id = request.lora_int_id, 7
    assert asyncio.run(resolver.resolve_lora("somebody/base", "team/a")).lora_int_id == number
    for name in ("none", "../team/a", "/etc/passwd", "team", "", "shared/a", "a\0"):
        assert asyncio.run(resolver.resolve_lora("somebody/base", name)) is None


def test_registering_again_changes_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lora = interface(monkeypatch)
    vllm.register()
    first = lora.LoRAResolverRegistry.get_resolver("adaptzip")
    vllm.register()
    assert lora.LoRAResolverRegistry.get_resolver("adaptzip") is first


def test_what_is_misset_is_told_at_the_start(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interface(monkeypatch)
    monkeypatch.setenv(vllm.LIMIT, "a lot")
    with pytest.raises(UsageError, match="'a lot'"):
        vllm.register()
    monkeypatch.delenv(vllm.LIMIT)
    monkeypatch.setenv(vllm.STORE, "nothing://bucket")
    with pytest.raises(UsageError, match="nothing://bucket"):
        vllm.register()
