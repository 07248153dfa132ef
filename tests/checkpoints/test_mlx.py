"""MLX's LoRA means what MLX computes: x W^T + scale * x lora_a lora_b, and for DoRA its rows scaled to m."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import adaptzip
from adaptzip.errors import AdaptzipError, AdaptzipWarning, CheckpointError, RefusedError
from adaptzip.restoring.merging import merge
from adaptzip.restoring.reading import read
from tests.cases import tiny_peft

LINEAR = "model.layers.0.self_attn.q_proj"
EMBEDDING = "model.embed_tokens"
GIVEN = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 2.5}, "model": "owner/base"}


def tensors(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(*shape, generator=generator) for key, shape in shapes.items()}


def factors(module: str, width: int, out: int, *, dora: bool = False) -> dict[str, Tensor]:
    made = {"lora_a": (width, 4), "lora_b": (4, out)} | ({"m": (out,)} if dora else {})
    return {f"{module}.{part}": tensor for part, tensor in tensors(**made).items()}


def saved(folder: Path, given: dict[str, Tensor], config: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(given, folder / "adapters.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(GIVEN if config is None else config))
    return folder


def merged(folder: Path, adapter: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a tiny Llama before and after."""
    tiny_peft.llama().save_pretrained(folder / "base")
    merge(adapter, folder / "base", folder / "merged")
    return tuple(load_file(folder / name / "model.safetensors") for name in ("base", "merged"))  # type: ignore[return-value]


def test_a_linear_layer_and_an_embedding_change_by_scale_times_a_b(tmp_path: Path) -> None:
    given = factors(LINEAR, 16, 16) | factors(EMBEDDING, 32, 16)
    before, after = merged(tmp_path, saved(tmp_path / "a", given))
    for module in (LINEAR, EMBEDDING):
        a, b = (given[f"{module}.lora_{side}"] for side in "ab")
        update = 2.5 * (a @ b)
        changed = after[f"{module}.weight"] - before[f"{module}.weight"]
        torch.testing.assert_close(changed, update if module == EMBEDDING else update.T, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("said", [{"fine_tune_type": "dora"}, {"use_dora": True}])
def test_dora_scales_each_row_to_m(said: dict[str, Any], tmp_path: Path) -> None:
    given = factors(LINEAR, 16, 16, dora=True)
    config = {"lora_parameters": GIVEN["lora_parameters"], **said}
    before, after = merged(tmp_path, saved(tmp_path / "a", given, config))
    whole = before[f"{LINEAR}.weight"] + 2.5 * (given[f"{LINEAR}.lora_a"] @ given[f"{LINEAR}.lora_b"]).T
    rows = given[f"{LINEAR}.m"][:, None] * whole / whole.norm(dim=1, keepdim=True)
    torch.testing.assert_close(after[f"{LINEAR}.weight"], rows, atol=1e-5, rtol=1e-4)


def test_the_base_has_one_name(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "a", factors(LINEAR, 16, 16)))
    assert found.meta.base_model == "owner/base"
    small = adaptzip.compress(found, lossless=True, base_name="else/where")
    assert "owner/base" not in json.dumps(dict(small.meta.config))
    assert small.meta.base_model == "else/where"


def test_a_file_alone_finds_its_configuration(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", factors(LINEAR, 16, 16))
    assert read(folder / "adapters.safetensors").meta.dialect == "mlx"
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="without adapter_config.json, so its scale is unknown"):
        read(folder)


Change = Callable[[dict[str, Any], dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c, t: c.update(fine_tune_type="full"), RefusedError, "fine_tune_type is 'full'"),
        (lambda c, t: c.update(fine_tune_type="dora"), CheckpointError, "has no m, but fine_tune_type is dora"),
        (lambda c, t: t.update({f"{LINEAR}.m": torch.ones(16)}), CheckpointError, "q_proj.m, but fine_tune_type"),
        (lambda c, t: c.pop("lora_parameters"), CheckpointError, "lora_parameters is None"),
        (
            lambda c, t: c.update(lora_parameters={"rank": 4}),
            CheckpointError,
            "scale is None, expected a finite number",
        ),
        (lambda c, t: c.update(lora_parameters={"scale": True}), CheckpointError, "scale is True"),
        (lambda c, t: t.update({"score.weight": torch.ones(2, 2)}), CheckpointError, "score.weight has no meaning"),
        (lambda c, t: t.pop(f"{LINEAR}.lora_b"), CheckpointError, "has .*lora_a but no lora_b"),
        (lambda c, t: t.update({f"{LINEAR}.lora_b": torch.ones(3, 16)}), CheckpointError, r"\(rank, out\)"),
        (lambda c, t: t.update({f"{LINEAR}.lora_b": torch.full((4, 16), torch.inf)}), CheckpointError, "infinity"),
        (lambda c, t: t.update({f"{LINEAR}.lora_b": torch.ones(4, 16).int()}), CheckpointError, "is int32"),
        (
            lambda c, t: t.update({f"{LINEAR}.lora_a": torch.ones(2, 4, 16), f"{LINEAR}.lora_b": torch.ones(2, 8, 4)}),
            RefusedError,
            "all experts in one layer",
        ),
    ],
)
def test_what_it_cannot_be_is_named(change: Change, error: type[AdaptzipError], message: str, tmp_path: Path) -> None:
    config, given = dict(GIVEN), factors(LINEAR, 16, 16)
    change(config, given)
    with pytest.raises(error, match=message):
        read(saved(tmp_path / "a", given, config))


def test_an_embedding_with_dora_is_refused(tmp_path: Path) -> None:
    given = factors(EMBEDDING, 32, 16, dora=True)
    with pytest.raises(RefusedError, match="is an embedding with DoRA"):
        read(saved(tmp_path / "a", given, GIVEN | {"fine_tune_type": "dora"}))


def test_a_real_one_is_read(material: Path) -> None:
    with pytest.warns(AdaptzipWarning, match="0000100_adapters.safetensors beside it, saved earlier in the same"):
        found = read(material / "adapters" / "mlx-wyek1n")
    assert {(module.rank, module.scaling) for module in found.modules.values()} == {(8, 10.0)}
    assert {module.shape for module in found.modules.values()} == {(896, 896), (128, 896)}
