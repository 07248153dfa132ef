"""One cause has one message and one exit code, whatever form an adapter comes in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from adaptzip.cli.app import main

STEM = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG: Mapping[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
GOOD = {f"{STEM}.lora_A.weight": torch.ones(2, 4), f"{STEM}.lora_B.weight": torch.ones(3, 2)}


@dataclass(frozen=True)
class Cause:
    """Something wrong with an adapter: its tensors and configuration, the exit code, and what is said."""

    code: int
    said: str
    tensors: Mapping[str, Tensor] = field(default_factory=lambda: GOOD)
    config: Mapping[str, Any] | None = field(default_factory=lambda: CONFIG)
    cut: int = 0


NAN = GOOD | {f"{STEM}.lora_B.weight": torch.full((3, 2), float("nan"))}
CAUSES = {
    "nan": Cause(2, "lora_B.weight holds NaN or infinity", NAN),
    "integers": Cause(2, "is int32", {key: tensor.int() for key, tensor in GOOD.items()}),
    "no configuration": Cause(2, "so its scale is unknown", config=None),
    "alpha is null": Cause(2, "lora_alpha is None", config={**CONFIG, "lora_alpha": None}),
    "another rank": Cause(2, "has rank 2, but adapter_config.json says 4", config={**CONFIG, "r": 4}),
    "no B": Cause(2, "but no lora_B", {f"{STEM}.lora_A.weight": torch.ones(2, 4)}),
    "no tensors": Cause(2, "holds no tensors", {}),
    "another method": Cause(3, "peft_type is LOHA, expected LORA", config={**CONFIG, "peft_type": "LOHA"}),
    "another method's keys": Cause(3, "belongs to AdaLoRA", GOOD | {f"{STEM}.lora_E": torch.ones(2, 1)}),
    "changed base": Cause(3, "PiSSA changes the base weights", config={**CONFIG, "init_lora_weights": "pissa"}),
    "half of a kohya LoRA": Cause(2, "but no lora_up.weight", {"lora_unet_a.lora_down.weight": torch.ones(2, 2)}),
    "half of one alone": Cause(2, "but no lora_up.weight", {"lora_unet_a.lora_down.weight": torch.ones(2, 2)}, None),
    "a whole model": Cause(2, "is no LoRA adapter", {"model.embed_tokens.weight": torch.ones(2, 2)}),
    "a whole model alone": Cause(2, "is no LoRA adapter", {"model.embed_tokens.weight": torch.ones(2, 2)}, None),
    "cut": Cause(2, "is truncated", cut=9),
}


def as_safetensors(folder: Path, cause: Cause) -> Path:
    save_file(dict(cause.tensors), folder / "adapter_model.safetensors")
    return folder / "adapter_model.safetensors"


def as_bin(folder: Path, cause: Cause) -> Path:
    torch.save(dict(cause.tensors), folder / "adapter_model.bin")
    return folder / "adapter_model.bin"


def as_old_bin(folder: Path, cause: Cause) -> Path:
    torch.save(dict(cause.tensors), folder / "adapter_model.bin", _use_new_zipfile_serialization=False)
    return folder / "adapter_model.bin"


def as_nested_bin(folder: Path, cause: Cause) -> Path:
    torch.save({"state_dict": dict(cause.tensors), "epoch": 1}, folder / "adapter_model.bin")
    return folder / "adapter_model.bin"


FORMS: dict[str, Callable[[Path, Cause], Path]] = {
    "safetensors": as_safetensors, "bin": as_bin, "old bin": as_old_bin, "nested bin": as_nested_bin,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CAUSES)
def test_a_cause_is_told_alike_in_every_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, form: str
) -> None:
    cause = CAUSES[name]
    folder = tmp_path / "adapter"
    folder.mkdir()
    file = FORMS[form](folder, cause)
    file.write_bytes(file.read_bytes()[: -cause.cut or None])
    if cause.config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(cause.config))
    for words in (
        ["inspect", "--no-costs"],
        ["compress", "-o", str(tmp_path / "o.adz")],
        ["export", "-o", str(tmp_path / "o")],
    ):
        for path in (folder, file):
            assert main([words[0], str(path), *words[1:]]) == cause.code
            error, hint = capsys.readouterr().err.splitlines()
            assert error.startswith("error: ")
            assert cause.said in error
            assert hint.startswith("hint: ")
    assert not (tmp_path / "o.adz").exists()
    assert not (tmp_path / "o").exists()
