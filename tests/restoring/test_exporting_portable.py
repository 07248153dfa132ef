"""The portable profile says the same so that every inference engine reads it, and loses nothing silently."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from adaptzip.errors import RefusedError
from adaptzip.restoring.exporting import export
from adaptzip.restoring.reading import read
from tests.cases.exported import CASES, assert_merges_alike, recompressed
from tests.cases.tiny_peft import merged_by_peft, train


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
        ("dora", r"the portable profile cannot hold DoRA magnitudes \(2, such as model"),
        ("head and biases", r"tensors beside the factors \(\d+, such as base_model\.model\.bert"),
        ("lora_bias", r"LoRA biases \(2, such as conv2"),
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
        report = export(tmp_path / "source", tmp_path / "copy", portable=True, drop_extras=True)
        assert re.search(lost.removeprefix("the portable profile cannot hold "), ", ".join(report.left_out))
        merged_by_peft(model(), tmp_path / "copy", allow=("Some weights", "Found missing adapter keys"))
        assert not read(tmp_path / "copy").extras


class Numbered(nn.Module):
    """Layers whose names end in numbers, in lists and sequences, beside others with the same ends."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([self._block() for _ in range(2)])
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.proj2 = nn.Linear(4, 4)
        self.other = nn.ModuleDict({"proj2": nn.Linear(4, 4), "head": nn.Linear(4, 4)})

    @staticmethod
    def _block() -> nn.Module:
        return nn.ModuleDict({"to_out": nn.ModuleList([nn.Linear(4, 4), nn.Dropout(0.0)]), "to_q": nn.Linear(4, 4)})

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(x)
        return found


class Bare(nn.Sequential):
    """Layers that have nothing but numbers for names, two of them within others."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), nn.Linear(4, 4))


@pytest.mark.parametrize("portable", [True, False])
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("model", "targets"),
    [
        (Numbered, ["to_out.0", "to_q"]),
        (Numbered, ["head.2", "blocks.1.to_out.0"]),
        (Numbered, r"proj2|.*\.0\.to_q"),
        (Bare, "0"),
        (Bare, r"1\.0|2"),
    ],
)
def test_modules_that_end_in_numbers_are_loaded_and_no_others(
    model: type[nn.Module], targets: Any, told: bool, portable: bool, tmp_path: Path
) -> None:
    trained = train(model(), tmp_path / "source", r=2, target_modules=targets)
    adapter = recompressed(read(tmp_path / "source"))
    config = dict(adapter.meta.config) if told else {}
    export(replace(adapter, meta=replace(adapter.meta, config=config)), tmp_path / "copy", portable=portable)
    assert_merges_alike(model, trained, tmp_path / "copy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = PeftModel.from_pretrained(model(), tmp_path / "copy")
    wrapped = {name.removeprefix("base_model.model.") for name, m in loaded.named_modules() if hasattr(m, "lora_A")}
    assert wrapped == adapter.modules.keys()
    written = json.loads((tmp_path / "copy" / "adapter_config.json").read_text())["target_modules"]
    if told and isinstance(targets, list):
        assert sorted(written) == sorted(targets)
