"""UniLoRAs for stock PEFT: what is written loads with the same outputs, and is read as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.compressed import Compressed
from adaptzip.errors import RefusedError, UsageError
from adaptzip.testing.adapters import factors, relative_error
from tests.cases.tiny_peft import gpt2, llama, merged_by_peft

WIDTHS: dict[str, tuple[Callable[[], Any], str, dict[str, tuple[int, int]]]] = {
    "linear": (
        llama,
        "linear",
        {"model.layers.0.self_attn.q_proj": (16, 16), "model.layers.1.mlp.up_proj": (24, 16)},
    ),
    "conv1d": (
        gpt2,
        "transposed",
        {"transformer.h.0.attn.c_attn": (48, 16), "transformer.h.1.mlp.c_fc": (64, 16)},
    ),
}


def source(kind: str) -> Adapter:
    _, layout, widths = WIDTHS[kind]
    modules = {
        name: factors(*shape, 3, seed=i, layout=layout) for i, (name, shape) in enumerate(sorted(widths.items()))
    }
    zero = next(iter(widths)).replace("q_proj", "k_proj").replace("c_attn", "c_proj")
    size = (8, 16) if kind == "linear" else (16, 16)
    modules[zero] = LoraFactors(torch.ones(2, size[1]), torch.zeros(size[0], 2), layout=modules[min(modules)].layout)
    return Adapter(modules)


def made(kind: str, **options: Any) -> Compressed:
    return adaptzip.compress(source(kind), to="unilora", device="cpu", **{"numbers": 60, **options})


@pytest.mark.parametrize("kind", WIDTHS)
def test_peft_puts_out_what_we_do(kind: str, tmp_path: Path) -> None:
    compressed, model = made(kind), WIDTHS[kind][0]
    report = adaptzip.export(compressed, tmp_path / "uni", as_="peft-unilora")
    assert report is not None
    after = adaptzip.reconstruct(compressed)
    merged = merged_by_peft(model(), tmp_path / "uni")
    for name, base in model().state_dict().items():
        module = after.modules.get(name.removesuffix(".weight"))
        delta = torch.zeros(()) if module is None else module.weight_delta()
        torch.testing.assert_close(merged[name], base + delta, atol=1e-6, rtol=1e-5)
    adaptzip.export(compressed, tmp_path / "lora", as_="peft")
    ids = torch.arange(12).reshape(2, 6)
    outputs = [
        PeftModel.from_pretrained(model(), tmp_path / folder).eval()(input_ids=ids).logits for folder in ("uni", "lora")
    ]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(outputs[0], model().eval()(input_ids=ids).logits, atol=1e-5)


def test_what_the_files_hold(tmp_path: Path) -> None:
    compressed = made("linear", rank=2, numbers=20)
    adaptzip.export(compressed, tmp_path / "uni", as_="peft-unilora")
    tensors = load_file(tmp_path / "uni" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "uni" / "adapter_config.json").read_text())
    expected = {"peft_type": "UNILORA", "r": 2, "theta_d_length": 21, "save_indices": True}
    assert config.items() >= expected.items()
    theta = tensors["base_model.unilora_theta_d"]
    assert theta.shape == (21,)
    assert float(theta[-1]) == 1.0
    key = "base_model.model.model.layers.1.mlp.up_proj.unilora_"
    assert set(tensors[f"{key}indices_A"].reshape(-1).tolist()) == {20}
    assert tensors[f"{key}indices_B"].shape == (24, 2)
    assert set(tensors[f"{key}scales_B"].reshape(-1).tolist()) == {-0.5, 0.5}
    assert not any("k_proj" in name for name in tensors)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    compressed = made("linear")
    adaptzip.export(compressed, tmp_path / "uni", as_="peft-unilora")
    after = adaptzip.read(tmp_path / "uni")
    before = adaptzip.reconstruct(compressed)
    kept = {name: module for name, module in before.modules.items() if module.rank}
    assert after.meta.dialect == "peft-unilora"
    assert relative_error(Adapter(kept), after) < 1e-7


def test_modules_of_fewer_directions_end_in_zeros(tmp_path: Path) -> None:
    """Some have a frame of three directions, the other has four rows of signs."""
    whole = source("linear")
    first = {"model.layers.0.self_attn.q_proj": whole.modules["model.layers.0.self_attn.q_proj"]}
    adaptzip.compress(Adapter(first), tmp_path / "first.adz", max_error=0.1, device="cpu", start="none")
    compressed = made("linear", start=tmp_path / "first.adz")
    assert sorted(compressed.basis_sizes) == [0, 0, 3]
    adaptzip.export(compressed, tmp_path / "uni", as_="peft-unilora", basis=tmp_path / "first.adz")
    before = adaptzip.reconstruct(compressed, basis=tmp_path / "first.adz")
    after = adaptzip.read(tmp_path / "uni")
    assert {module.rank for module in after.modules.values()} == {4}
    kept = {name: module for name, module in before.modules.items() if module.rank}
    assert relative_error(Adapter(kept), after) < 1e-7


def test_what_peft_has_no_place_for_is_refused(tmp_path: Path) -> None:
    conv = Adapter({"c": factors(8, 27, 2, layout="conv", kernel=(3, 3))})
    with pytest.raises(RefusedError, match="PEFT's UniLoRA has linear ones only"):
        adaptzip.export(adaptzip.compress(conv, to="unilora", numbers=9), tmp_path / "x", as_="peft-unilora")
    with pytest.raises(RefusedError, match="holds the tensors of unilora alone"):
        adaptzip.export(adaptzip.compress(source("linear")), tmp_path / "x", as_="peft-unilora")
    with pytest.raises(UsageError, match="`portable=True`"):
        adaptzip.export(made("linear"), tmp_path / "x", as_="peft-unilora", portable=True)
    huge = Adapter({"m": LoraFactors(torch.ones(1, 8) * 1e4, torch.ones(6, 1) * 1e4)})
    with pytest.raises(RefusedError, match="float16 cannot hold"):
        adaptzip.export(
            adaptzip.compress(huge, to="unilora", numbers=24), tmp_path / "x", as_="peft-unilora", dtype="float16"
        )
