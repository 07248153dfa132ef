"""diffusers loads what we write with the update that we mean, and we read what it saves; tiny pipelines, on the CPU."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import adaptzip
from adaptzip.core.meta import Meta
from tests.cases.tiny_transformers import TRANSFORMERS, load_file, loaded

diffusers = pytest.importorskip("diffusers", reason="diffusers is in the environment of the oracles")
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::FutureWarning")]


def text_encoder(kind: Any) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 4}
    return kind(CLIPTextConfig(vocab_size=100, projection_dim=32, **sizes))


def autoencoder() -> Any:
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return diffusers.AutoencoderKL(block_out_channels=[8, 8], norm_num_groups=8, **blocks)


def sd1() -> Any:
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), layers_per_block=2, sample_size=32, cross_attention_dim=32, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
    )  # fmt: skip
    text = text_encoder(CLIPTextModel)
    scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    return diffusers.StableDiffusionPipeline(
        autoencoder(), text, None, unet, scheduler, None, None, requires_safety_checker=False
    )


def sdxl() -> Any:
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64, 64), layers_per_block=2, sample_size=32, cross_attention_dim=64,
        attention_head_dim=8, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 2),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )  # fmt: skip
    texts = (text_encoder(CLIPTextModel), text_encoder(CLIPTextModelWithProjection))
    return diffusers.StableDiffusionXLPipeline(
        autoencoder(), *texts, None, None, unet, diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    )


def adapter_of(parts: Mapping[str, nn.Module], *, mixed: bool = True) -> adaptzip.Adapter:
    """Random updates of all linear and convolutional layers of a pipeline, of mixed ranks and scales."""
    generator = torch.Generator().manual_seed(1)
    modules = {}
    for component, model in parts.items():
        for number, (name, layer) in enumerate(model.named_modules()):
            # diffusers gives text_projection of a kohya file the rank of other layers, whatever the file has.
            if not isinstance(layer, nn.Linear | nn.Conv2d) or name == "text_projection":
                continue
            kernel = tuple(layer.kernel_size) if isinstance(layer, nn.Conv2d) else ()
            out, width = layer.weight.flatten(1).shape
            rank = 2 + (number % 3 if mixed else 0)
            modules[f"{component}.{name}"] = adaptzip.LoraFactors(
                torch.randn(rank, width, generator=generator),
                torch.randn(out, rank, generator=generator),
                scaling=(0.5, 1.0, 0.75)[number % 3] if mixed else 1.0,
                layout="conv" if kernel else "linear",
                kernel=kernel,
            )
    meta = Meta("diffusers")
    return adaptzip.Adapter(dict(sorted(modules.items())), meta=meta)


def check(adapter: adaptzip.Adapter, models: Mapping[str, nn.Module]) -> None:
    """Each module that the adapter has is in the pipeline with its update, and no other."""
    found = {f"{part}.{name}": delta for part, model in models.items() for name, delta in loaded(model).items()}
    assert found.keys() == adapter.modules.keys()
    for name, factors in adapter.modules.items():
        wanted = factors.weight_delta()
        assert torch.allclose(found[name], wanted, atol=1e-4, rtol=1e-4), name


@pytest.mark.parametrize("dialect", ["diffusers", "kohya"])
@pytest.mark.parametrize("make", [sd1, sdxl])
def test_stable_diffusion_loads_what_is_written(make: Callable[[], Any], dialect: str, tmp_path: Path) -> None:
    pipe = make()
    parts = {name: getattr(pipe, name) for name in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipe, name)}
    adapter = adapter_of(parts)
    report = adaptzip.export(adapter, tmp_path / "out", as_=dialect)

    pipe.load_lora_weights(tmp_path / "out", weight_name=report.files[0])

    check(adapter, parts)


@pytest.mark.parametrize("make", [sd1, sdxl])
def test_text_encoders_load_by_the_names_that_trainers_write(make: Callable[[], Any], tmp_path: Path) -> None:
    """Those of transformers 4, of ranks and scales that differ, which the metadata tells."""
    pipe = make()
    parts = {name: getattr(pipe, name) for name in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipe, name)}
    adapter = adapter_of(parts)
    older = {re.sub(r"^(text_encoder(_2)?)\.", r"\1.text_model.", name): m for name, m in adapter.modules.items()}
    report = adaptzip.export(adaptzip.Adapter(older, meta=adapter.meta), tmp_path / "out", as_="diffusers")

    pipe.load_lora_weights(tmp_path / "out", weight_name=report.files[0])

    check(adapter, parts)
    assert adaptzip.read(tmp_path / "out").modules.keys() == older.keys()


def test_what_diffusers_saves_is_read_with_its_scale(tmp_path: Path) -> None:
    pipe = sd1()
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    config = LoraConfig(
        r=4, lora_alpha=6, rank_pattern={"attn2.to_q": 2}, target_modules=targets, init_lora_weights=False
    )
    pipe.unet.add_adapter(config)
    state = get_peft_model_state_dict(pipe.unet)
    told = pipe.unet.peft_config["default"].to_dict()
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=state, unet_lora_adapter_metadata=told
    )

    check(adaptzip.read(tmp_path), {"unet": pipe.unet})


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers_load_what_is_written(kind: str, tmp_path: Path) -> None:
    make, mixin = TRANSFORMERS[kind]
    model = make()
    adapter = adapter_of({"transformer": model})
    adapter = adaptzip.Adapter({n: f for n, f in adapter.modules.items() if f.layout == "linear"}, meta=adapter.meta)
    report = adaptzip.export(adapter, tmp_path / "out", as_="diffusers")

    load_file(mixin, model, tmp_path / "out", report.files[0])

    check(adapter, {"transformer": model})


@pytest.mark.parametrize("kind", ["flux", "sd3", "wan", "qwen"])
@pytest.mark.parametrize("dialect", ["kohya", "comfyui"])
def test_original_names_come_back_as_they_were(kind: str, dialect: str, tmp_path: Path) -> None:
    """Through the names of the original implementation, which has some layers as one, and back, where diffusers judges;
    its own converter of these files loads nothing, or wants full sizes."""
    make, mixin = TRANSFORMERS[kind]
    model = make()
    adapter = adapter_of({"transformer": model}, mixed=False)
    wanted = {n: f for n, f in adapter.modules.items() if has_original(kind, n, f.layout)}
    adapter = adaptzip.Adapter(wanted, meta=adapter.meta)
    there = adaptzip.export(adapter, tmp_path / "there", as_=dialect)
    back = adaptzip.export(tmp_path / "there" / there.files[0], tmp_path / "back", as_="diffusers")

    load_file(mixin, model, tmp_path / "back", back.files[0])

    check(adapter, {"transformer": model})


def has_original(kind: str, name: str, layout: str) -> bool:
    """SD3's last block has a context whose modulation has other parts, and diffusers calls it the same. A convolution,
    which embeds its patches, tells SD3 from Flux."""
    return "norm1_context" not in name if kind == "sd3" else layout == "linear"
