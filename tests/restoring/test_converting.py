"""From one dialect to another: exact without a limit, within it with one, and to a file where there is one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptzip
from adaptzip.cli.app import main
from adaptzip.errors import CheckFailedError, OutputError, UsageError
from adaptzip.testing.adapters import relative_error


@pytest.fixture
def kohya(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for block in range(4):
        stem = f"lora_unet_down_blocks_{block}_attentions_0_proj_in"
        up = torch.randn(64, 8, generator=generator) * 0.6 ** torch.arange(8.0)
        tensors[f"{stem}.lora_down.weight"] = torch.randn(8, 48, generator=generator).half()
        tensors[f"{stem}.lora_up.weight"] = up.half()
        tensors[f"{stem}.alpha"] = torch.tensor(4.0).half()
    save_file(tensors, tmp_path / "x.safetensors", {"ss_steps": "10"})
    return tmp_path / "x.safetensors"


def test_without_a_limit_the_update_stays_and_its_own_dialect_is_the_same_file(kohya: Path, tmp_path: Path) -> None:
    same = adaptzip.convert(kohya, tmp_path / "same.safetensors")
    assert hashlib.sha256((tmp_path / "same.safetensors").read_bytes()).digest() == (
        hashlib.sha256(kohya.read_bytes()).digest()
    )
    assert (same.error, same.ranks, same.written.dialect) == (0.0, (8, 8), "kohya")

    other = adaptzip.convert(kohya, tmp_path / "out", as_="diffusers")
    assert other.written.dialect == "diffusers"
    assert relative_error(adaptzip.read(kohya), adaptzip.read(tmp_path / "out")) < 1e-3
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / other.written.files[0]).values()} == {torch.float16}


@pytest.mark.parametrize("limit", [{"rank": 3}, {"max_error": 0.1}, {"budget": "40%"}, {"budget": "3KiB"}], ids=str)
def test_a_limit_holds_in_what_is_written(kohya: Path, tmp_path: Path, limit: dict[str, object]) -> None:
    report = adaptzip.convert(kohya, tmp_path / "small.safetensors", **limit)  # type: ignore[arg-type]

    found = adaptzip.read(tmp_path / "small.safetensors")
    error = relative_error(adaptzip.read(kohya), found)
    assert abs(error - report.error) < 2e-3
    assert max(m.rank for m in found.modules.values()) == report.ranks[1] <= 8
    size = (tmp_path / "small.safetensors").stat().st_size
    assert report.written.bytes == size
    if "rank" in limit:
        assert report.ranks == (3, 3)
    elif "max_error" in limit:
        assert error <= 0.1
    else:
        assert size <= (0.4 * kohya.stat().st_size if limit["budget"] == "40%" else 3 * 1024)


def test_what_cannot_be_is_told_and_nothing_is_written(kohya: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="adapter_config.json, adapter_model.safetensors"):
        adaptzip.convert(kohya, tmp_path / "out.safetensors", as_="peft")
    with pytest.raises(UsageError, match="bytes on disk"):
        adaptzip.convert(kohya, tmp_path / "out.safetensors", budget="50k")
    with pytest.raises(UsageError, match="ends with .adz"):
        adaptzip.convert(kohya, tmp_path / "out.adz")
    with pytest.raises(CheckFailedError, match="the size leaves"):
        adaptzip.convert(kohya, tmp_path / "out.safetensors", budget="10B")
    with pytest.raises(UsageError):
        adaptzip.convert(kohya, kohya)
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    with pytest.raises(OutputError):
        adaptzip.convert(kohya, tmp_path / "there.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"


def test_the_command_says_what_it_wrote(kohya: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(kohya), str(tmp_path / "a"), "--as", "diffusers", "--rank", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ranks"] == [2, 2]
    assert main(["convert", str(kohya), str(tmp_path / "b.safetensors")]) == 0
    assert "as kohya" in capsys.readouterr().err
    assert main(["convert", str(kohya), str(tmp_path / "c"), "--as", "nothing"]) == 2
