"""mlx-lm computes with an MLX adapter what PEFT computes with its source, before and after it fuses the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptzip.restoring.exporting import export
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
