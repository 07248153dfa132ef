"""The portable profile says the same so that every inference engine reads it, and loses nothing silently."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from exported import CASES, assert_merges_alike, recompressed
from tiny_peft import merged_by_peft, train

from adaptzip.errors import RefusedError
from adaptzip.exporting import export
from adaptzip.sources import read


@pytest.mark.parametrize("name", ["linear", "rslora and patterns", "conv1d"])
def test_the_portable_profile(name: str, tmp_path: Path) -> None:
    model, config = CASES[name]
    trained = train(model(), tmp_path / "source", **config)
    export(recompressed(read(tmp_path / "source")), tmp_path / "copy", portable=True)
    assert_merges_alike(model, trained, tmp_path / "copy")
    written = json.loads((tmp_path / "copy" / "adapter_config.json").read_text())
    assert written["lora_alpha"] == written["r"]
    assert not written["use_rslora"]
    assert not written.get("rank_pattern")
    assert not written.get("alpha_pattern")
    assert written["modules_to_save"] is None
    assert written["target_modules"] == sorted(config["target_modules"])
    adapter = read(tmp_path / "copy")
    assert {factors.rank for factors in adapter.modules.values()} == {written["r"]}
    assert {factors.scaling for factors in adapter.modules.values()} == {1.0}
    assert {factors.A.dtype for factors in adapter.modules.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("dora", "the DoRA magnitudes of 2 modules"),
        ("head and biases", "tensors beside the factors, such as base_model.model.bert"),
        ("lora_bias", "the LoRA biases of 2 modules"),
        ("experts", "cannot hold LoRA on whole parameters"),
    ],
)
def test_the_portable_profile_loses_nothing_silently(name: str, lost: str, tmp_path: Path) -> None:
    model, config = CASES[name]
    train(model(), tmp_path / "source", **config)
    with pytest.raises(RefusedError, match=lost):
        export(tmp_path / "source", tmp_path / "copy", portable=True)
    assert not (tmp_path / "copy").exists()
    if name != "experts":
        export(tmp_path / "source", tmp_path / "copy", portable=True, drop_extras=True)
        merged_by_peft(model(), tmp_path / "copy", allow=("Some weights", "Found missing adapter keys"))
        assert not read(tmp_path / "copy").extras
