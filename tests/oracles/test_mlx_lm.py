"""mlx-lm computes with an MLX adapter what PEFT computes with its source, before and after it fuses the two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.restoring.exporting import export
from adaptzip.restoring.reading import read
from tests.cases.oracle_models import LINEAR, MIXED, TOKENS, Case, make

mlx = pytest.importorskip("mlx.core", reason="mlx-lm has no wheel for this system")
pytestmark = pytest.mark.oracle


def loaded(base: Path, adapter: Path | None = None) -> Any:
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    model, _ = load_model(base)
    return model if adapter is None else load_adapters(model, str(adapter))


def logits(model: Any) -> Tensor:
    return torch.tensor(model(mlx.array([TOKENS]))[0].astype(mlx.float32).tolist())


def fused(model: Any) -> Any:
    from mlx.utils import tree_unflatten

    model.update_modules(tree_unflatten([(name, m.fuse()) for name, m in model.named_modules() if hasattr(m, "fuse")]))
    return model


def assert_computes_alike(case: Case, folder: Path, **options: Any) -> None:
    export(case.adapter, folder, as_="mlx", **options)
    torch.testing.assert_close(logits(loaded(case.base)), case.plain, atol=1e-4, rtol=0)
    assert float((case.adapted - case.plain).abs().max()) > 0.5
    model = loaded(case.base, folder)
    torch.testing.assert_close(logits(model), case.adapted, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits(fused(model)), case.adapted, atol=1e-4, rtol=0)


def test_mixed_ranks_and_scales(tmp_path: Path) -> None:
    assert_computes_alike(make(tmp_path, r=4, lora_alpha=8, **MIXED), tmp_path / "out")


def test_some_modules_of_one_layer(tmp_path: Path) -> None:
    case = make(tmp_path, r=4, lora_alpha=32, targets=("q_proj", "down_proj"), layers_to_transform=[1])
    assert_computes_alike(case, tmp_path / "out")


def test_dora(tmp_path: Path) -> None:
    case = make(tmp_path, r=4, lora_alpha=8, use_dora=True, targets=LINEAR)
    assert_computes_alike(case, tmp_path / "out")


def test_the_embedding_and_the_head(tmp_path: Path) -> None:
    case = make(tmp_path, r=4, lora_alpha=8, targets=("q_proj", "embed_tokens", "lm_head"))
    assert_computes_alike(case, tmp_path / "out")


GPT: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "gpt2": (("c_attn", "c_proj", "c_fc"), {"n_ctx": 64}),
    "gpt_bigcode": (("c_attn", "c_proj", "c_fc"), {"num_key_value_heads": 1, "n_inner": 256}),
    "gptj": (("q_proj", "out_proj", "fc_in", "fc_out"), {}),
    "gpt_neox": (
        ("query_key_value", "dense", "dense_h_to_4h", "lm_head"),
        {"rotary_emb_base": 10000, "rotary_pct": 0.25},
    ),
}


@pytest.mark.parametrize("kind", GPT)
def test_models_with_names_of_their_own(kind: str, tmp_path: Path) -> None:
    """The bases are as they are on the hub, where GPT-2 is saved without its head."""
    targets, told = GPT[kind]
    case = make(tmp_path, kind, targets=targets, r=4, lora_alpha=8, fan_in_fan_out=kind == "gpt2")
    config = json.loads((case.base / "config.json").read_text())
    (case.base / "config.json").write_text(json.dumps(config | told))
    if kind == "gpt2":
        tensors = load_file(case.base / "model.safetensors")
        plain = {key.removeprefix("transformer."): tensor for key, tensor in tensors.items()}
        save_file(plain, case.base / "model.safetensors", {"format": "pt"})
    assert_computes_alike(case, tmp_path / "out")
    assert read(tmp_path / "out").modules.keys() == read(case.adapter).modules.keys()
