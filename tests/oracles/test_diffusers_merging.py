"""What we merge into pipelines and into files of one model is what diffusers loads, fuses and converts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, T5Config, T5EncoderModel

import adaptzip
from adaptzip.checkpoints._image.families import FAMILIES
from adaptzip.core.adapter import Adapter
from tests.cases.original_files import open_clip, original_clip, original_transformer, original_unet, prefixed
from tests.cases.tiny_transformers import TRANSFORMERS, flux
from tests.oracles.test_diffusers import adapter_of, autoencoder, has_original, sd1, sdxl, text_encoder

diffusers = pytest.importorskip("diffusers", reason="diffusers is in the environment of the oracles")
single = pytest.importorskip(
    "diffusers.loaders.single_file_utils", reason="diffusers is in the environment of the oracles"
)
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore::FutureWarning")]

Weights = dict[str, Tensor]
COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
FLUX = next(family for family in FAMILIES if family.title == "Flux")
FOLDED = 1e-6
"""What kohya's files are off diffusers' by, as they have scales in other factors; their numbers are about 1."""


def flux_pipeline() -> Any:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 36, "num_layers": 2, "num_heads": 4, "vocab_size": 100}
    transformer = flux()
    texts = (text_encoder(CLIPTextModel), None, T5EncoderModel(T5Config(**sizes)), None)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return diffusers.FluxPipeline(scheduler, autoencoder(), *texts, transformer)


def parts_of(pipe: Any) -> dict[str, nn.Module]:
    return {name: getattr(pipe, name) for name in COMPONENTS if getattr(pipe, name, None) is not None}


def stored(folder: Path) -> Weights:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], most: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if (found[name] - expected[name]).abs().max() > most] == []


def fused(make: Callable[[], Any], lora: Path) -> dict[str, nn.Module]:
    """The components with the adapter merged by diffusers."""
    pipe = make()
    (file,) = lora.glob("*.safetensors")
    pipe.load_lora_weights(lora, weight_name=file.name)
    pipe.fuse_lora(components=[name for name in parts_of(pipe) if name in pipe._lora_loadable_modules])
    pipe.unload_lora_weights()
    return parts_of(pipe)


def narrow(convert: Any, width: int) -> Any:
    """diffusers' conversion for a transformer of another width than the one that is written into it."""
    code = convert.__code__
    constants = tuple(width if value == 3072 else value for value in code.co_consts)
    return FunctionType(code.replace(co_consts=constants), convert.__globals__)


def one_file(pipe: Any, base: Path) -> Weights:
    """A pipeline in the names of the original implementation, as they are handed on."""
    w = {name: stored(base / name) for name in parts_of(pipe)}
    if "transformer" in w:
        return {
            **prefixed("model.diffusion_model.", original_transformer(w["transformer"], FLUX)),
            **prefixed("text_encoders.clip_l.transformer.", original_clip(w["text_encoder"])),
            **prefixed("text_encoders.t5xxl.transformer.", w["text_encoder_2"]),
            **prefixed("vae.", stored(base / "vae")),
        }
    deep = "text_encoder_2" in w
    found = prefixed("model.diffusion_model.", original_unet(w["unet"], deep=deep))
    found |= prefixed("first_stage_model.", stored(base / "vae"))
    if not deep:
        return found | prefixed("cond_stage_model.transformer.", original_clip(w["text_encoder"]))
    found |= prefixed("conditioner.embedders.0.transformer.", original_clip(w["text_encoder"]))
    return found | prefixed("conditioner.embedders.1.model.", open_clip(w["text_encoder_2"]))


def converted(pipe: Any, file: Path) -> dict[str, Weights]:
    """What diffusers makes of such a file."""
    weights = load_file(file)
    if hasattr(pipe, "transformer"):
        t5 = "text_encoders.t5xxl.transformer."
        inner = {k: v for k, v in weights.items() if k.startswith("model.diffusion_model.")}
        return {
            "transformer": narrow(single.convert_flux_transformer_checkpoint_to_diffusers, 32)(inner),
            "text_encoder": single.convert_ldm_clip_checkpoint(weights, "text_encoders.clip_l.transformer."),
            "text_encoder_2": {k.removeprefix(t5): v for k, v in weights.items() if k.startswith(t5)},
        }
    found = {
        "unet": single.convert_ldm_unet_checkpoint(dict(weights), dict(pipe.unet.config)),
        "text_encoder": single.convert_ldm_clip_checkpoint(dict(weights)),
    }
    if hasattr(pipe, "text_encoder_2"):
        prefix = "conditioner.embedders.1.model."
        found["text_encoder_2"] = single.convert_open_clip_checkpoint(pipe.text_encoder_2, dict(weights), prefix=prefix)
    return found


def as_stored(found: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> Weights:
    """With the names of the base's files, which have CLIP's without `text_model` since transformers 5."""
    return {k if k in names else k.removeprefix("text_model."): v for k, v in found.items()}


@pytest.mark.parametrize("dialect", ["diffusers", "kohya", "comfyui"])
@pytest.mark.parametrize("make", [sd1, sdxl, flux_pipeline])
def test_pipelines_and_files_of_one_model(make: Callable[[], Any], dialect: str, tmp_path: Path) -> None:
    pipe = make()
    pipe.save_pretrained(tmp_path / "base")
    parts = {name: stored(tmp_path / "base" / name) for name in parts_of(pipe)}
    save_file(
        one_file(pipe, tmp_path / "base"), tmp_path / "base.safetensors", {"format": "pt", "modelspec.title": "x"}
    )
    for name, weights in converted(pipe, tmp_path / "base.safetensors").items():
        assert_same(as_stored(weights, parts[name]), parts[name])
    adapter = adapter_of(parts_of(pipe), mixed=make is not flux_pipeline)
    adaptzip.export(adapter, tmp_path / "lora", as_=dialect)
    own = dialect == "diffusers" or (dialect == "kohya" and make is not flux_pipeline)  # What diffusers loads.
    adaptzip.export(adapter, tmp_path / "live", as_=dialect if own else "diffusers")
    most = 0.0 if own or dialect == "comfyui" else FOLDED

    report = adaptzip.merge(tmp_path / "lora", tmp_path / "base", tmp_path / "merged")
    in_one = adaptzip.merge(tmp_path / "lora", tmp_path / "base.safetensors", tmp_path / "merged.safetensors")

    live = fused(make, tmp_path / "live")
    again = converted(pipe, tmp_path / "merged.safetensors")
    for name, weights in parts.items():
        found = stored(tmp_path / "merged" / name)
        loadable = name in pipe._lora_loadable_modules  # diffusers loads none of T5, of Flux's pipeline.
        expected = {k: v for k, v in live[name].state_dict().items() if k in weights}
        assert_same(found, expected if loadable else found, most)
        assert_same(as_stored(again[name], weights), found)
        assert any(not torch.equal(found[key], weights[key]) for key in weights)
    assert_same(stored(tmp_path / "merged" / "vae"), stored(tmp_path / "base" / "vae"))
    assert report.warnings == in_one.warnings == ()


@pytest.mark.parametrize("make", [sd1, sdxl])
def test_from_single_file(make: Callable[[], Any], tmp_path: Path) -> None:
    """With the provenance in its metadata; diffusers' own Flux has one width alone."""
    pipe = make()
    pipe.save_pretrained(tmp_path / "base")
    save_file(one_file(pipe, tmp_path / "base"), tmp_path / "base.safetensors", {"format": "pt"})
    adapter = adapter_of(parts_of(pipe))
    adaptzip.merge(adapter, tmp_path / "base", tmp_path / "merged")
    adaptzip.merge(adapter, tmp_path / "base.safetensors", tmp_path / "merged.safetensors")

    loaded = type(pipe.unet).from_single_file(
        str(tmp_path / "merged.safetensors"), config=str(tmp_path / "base"), subfolder="unet"
    )

    assert_same(loaded.state_dict(), stored(tmp_path / "merged" / "unet"))


@pytest.mark.parametrize("dialect", ["diffusers", "kohya", "comfyui"])
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_a_transformer_alone(kind: str, dialect: str, tmp_path: Path) -> None:
    """In its folder, and as one file without a prefix, as ComfyUI keeps it."""
    make, _ = TRANSFORMERS[kind]
    model = make()
    model.save_pretrained(tmp_path / "transformer")
    base = stored(tmp_path / "transformer")
    title = {"flux": "Flux", "sd3": "Stable Diffusion 3", "qwen": "Qwen-Image", "wan": "Wan"}[kind]
    family = next(family for family in FAMILIES if family.title == title)
    save_file(original_transformer(base, family), tmp_path / "base.safetensors")
    adapter = adapter_of({"transformer": model}, mixed=False)
    wanted = {n: f for n, f in adapter.modules.items() if has_original(kind, n, f.layout)}
    adapter = Adapter(wanted, meta=adapter.meta)
    adaptzip.export(adapter, tmp_path / "lora", as_=dialect)

    adaptzip.merge(tmp_path / "lora", tmp_path / "transformer", tmp_path / "merged")
    adaptzip.merge(tmp_path / "lora", tmp_path / "base.safetensors", tmp_path / "merged.safetensors")

    model.load_lora_adapter(load_file(adaptzip_file(adapter, tmp_path / "own")), prefix="transformer")
    model.fuse_lora()
    model.unload_lora()
    found = stored(tmp_path / "merged")
    assert_same(
        found, {k: v for k, v in model.state_dict().items() if k in found}, FOLDED if dialect == "kohya" else 0.0
    )
    assert_same(load_file(tmp_path / "merged.safetensors"), original_transformer(found, family))


def adaptzip_file(adapter: Adapter, folder: Path) -> Path:
    """The adapter in diffusers' dialect, as one file."""
    report = adaptzip.export(adapter, folder, as_="diffusers")
    return folder / report.files[0]
