"""Adapters of several dialects as one, and models with several adapters merged into them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import adaptzip
from adaptzip.checkpoints._image.families import FAMILIES
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipWarning, RefusedError, UsageError
from tests.cases.live_models import llama, train
from tests.checkpoints.test_image_dialects import of_family


def flux(dialect: str) -> adaptzip.Adapter:
    return adaptzip.Adapter(of_family(FAMILIES[0]), meta=Meta(dialect))


def test_image_adapters_of_several_dialects_are_one_of_diffusers(tmp_path: Path) -> None:
    model = flux("bfl")
    folders = [adaptzip.export(model, tmp_path / name, as_=name).path for name in ("bfl", "diffusers", "kohya")]
    made = adaptzip.combine(folders, [1, 0.5, -0.25])
    parts = adaptzip.read(tmp_path / "diffusers")
    assert made.meta.dialect == "diffusers"
    assert made.modules.keys() == parts.modules.keys()
    for name, factors in parts.modules.items():
        assert torch.allclose(made.modules[name].delta(), 1.25 * factors.delta(), atol=1e-4), name


def test_adapters_of_one_dialect_stay_of_it(tmp_path: Path) -> None:
    folder = adaptzip.export(flux("bfl"), tmp_path / "kohya", as_="kohya").path
    made = adaptzip.combine([folder, folder])
    assert (made.meta.dialect, made.meta.header) == ("kohya", None)
    assert made.modules.keys() == adaptzip.read(folder).modules.keys()


def test_adapters_of_a_pipeline_and_of_one_model_are_not_mixed() -> None:
    factors = adaptzip.LoraFactors(torch.ones(1, 4), torch.ones(4, 1))
    gpt = adaptzip.Adapter({"transformer.h.0.attn.c_attn": factors})
    image = adaptzip.Adapter({"transformer.transformer_blocks.0.attn.to_q": factors}, meta=Meta("diffusers"))
    with pytest.raises(RefusedError, match="adapter 2 is of an image pipeline, and adapter 1 of a model that is no"):
        adaptzip.combine([gpt, image])


def test_other_base_models_are_told_of() -> None:
    factors = adaptzip.LoraFactors(torch.ones(1, 4), torch.ones(4, 1))
    one, other = (adaptzip.Adapter({"transformer.h.0.c": factors}, meta=Meta(base_model=b)) for b in ("a/b", "c/d"))
    with pytest.warns(AdaptzipWarning, match="different base models: adapter 1 for a/b and adapter 2 for c/d"):
        adaptzip.combine([one, other])
    adaptzip.combine([one, one])


def test_each_adapter_has_a_weight() -> None:
    with pytest.raises(UsageError, match="2 adapters have 1 weights"):
        adaptzip.combine([flux("bfl"), flux("bfl")], [1.0])


@pytest.mark.parametrize("method", ["cat", "linear", "svd", "ties"])
def test_several_are_merged_as_peft_merges_them(method: str, tmp_path: Path) -> None:
    """Bit for bit where the factors are PEFT's to the bit: its `cat` rounds them to the base's dtype."""
    dtype = torch.float32 if method == "cat" else torch.bfloat16
    live = train(tmp_path, lambda: llama(dtype=dtype).to(dtype), target_modules=["q_proj", "down_proj"])
    other = tmp_path / "other"
    other.mkdir()
    tensors = {
        key: torch.randn_like(tensor) for key, tensor in load_file(live.adapter / "adapter_model.safetensors").items()
    }
    save_file(tensors, other / "adapter_model.safetensors")
    (other / "adapter_config.json").write_bytes((live.adapter / "adapter_config.json").read_bytes())
    how = {"density": 0.5} if method == "ties" else {}

    base = AutoModelForCausalLM.from_pretrained(live.base, dtype=dtype)
    model = PeftModel.from_pretrained(base, live.adapter, "a")
    model.load_adapter(str(other), "b")
    model.add_weighted_adapter(["a", "b"], [0.7, -0.3], "both", combination_type=method, **how)
    model.set_adapter("both")
    wanted = model.merge_and_unload().state_dict()

    made = adaptzip.combine([live.adapter, other], [0.7, -0.3], method=method, **how)  # type: ignore[arg-type]
    adaptzip.merge(made, live.base, tmp_path / "merged")
    found = load_file(tmp_path / "merged/model.safetensors")
    for name, tensor in found.items():
        if method == "svd":  # Another decomposition of the same matrix.
            assert torch.allclose(tensor.float(), wanted[name].float(), atol=2e-2), name
        else:
            assert torch.equal(tensor, wanted[name]), name


def test_a_convolution_of_single_pixels_is_a_linear_layer() -> None:
    """As which some files of one model have it."""
    name = "unet.down_blocks.0.attentions.0.proj_in"
    A, B = torch.randn(2, 6), torch.randn(8, 2)
    linear = adaptzip.Adapter({name: adaptzip.LoraFactors(A, B)}, meta=Meta("kohya"))
    point = adaptzip.LoraFactors(A, B, layout="conv", kernel=(1, 1))
    convolution = adaptzip.Adapter({name: point}, meta=Meta("kohya"))
    for parts in ([linear, convolution], [convolution, linear]):
        made = adaptzip.combine(parts, [1, 0.5]).modules[name]
        assert (made.layout, made.kernel) == ("conv", (1, 1))
        assert torch.allclose(made.delta(), 1.5 * (B @ A), atol=1e-5)
    other = adaptzip.Adapter({name: adaptzip.LoraFactors(A, B, layout="conv", kernel=(3, 2))}, meta=Meta("kohya"))
    with pytest.raises(RefusedError, match="proj_in is"):
        adaptzip.combine([linear, other])
