"""Merging into the folder of a diffusers pipeline, or into that of one of its components."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter
from adaptzip.core.meta import Meta
from adaptzip.errors import BaseModelError, CheckFailedError, CheckpointError, OutputError, RefusedError, UsageError
from adaptzip.models.folder import BaseModel
from adaptzip.restoring.exporting import export
from adaptzip.restoring.merging import merge
from tests.cases.image_bases import (
    CLIP,
    FLUX_FILE,
    FLUX_FOLDER,
    UNET_FILE,
    UNET_FOLDER,
    VAE,
    D,
    Shapes,
    Tensors,
    lora,
    modules,
    pipeline,
    stored,
)

SD1: dict[str, Shapes] = {"unet": UNET_FOLDER, "text_encoder": CLIP, "vae": VAE}
FLUX: dict[str, Shapes] = {"transformer": FLUX_FOLDER, "text_encoder": CLIP, "vae": VAE}
QKV = "diffusion_model.double_blocks.0.img_attn.qkv"


def merged_by_hand(base: dict[str, Tensors], adapter: Adapter) -> dict[str, Tensors]:
    found = {name: {n: t.clone() for n, t in tensors.items()} for name, tensors in base.items()}
    for name, factors in adapter.modules.items():
        component, _, path = name.partition(".")
        found[component][f"{path}.weight"] += factors.weight_delta()
    return found


def assert_close(folder: Path, expected: dict[str, Tensors]) -> None:
    for name, tensors in expected.items():
        found = stored(folder / name)
        assert found.keys() == tensors.keys()
        assert [n for n in tensors if not torch.allclose(found[n], tensors[n], atol=1e-5)] == []


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_all_components_at_once(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base", SD1)
    adapter = lora({**modules("unet", UNET_FOLDER), **modules("text_encoder", CLIP)})

    report = merge(adapter, tmp_path / "base", tmp_path / "merged")

    assert_close(tmp_path / "merged", merged_by_hand(base, adapter))
    assert files_in(tmp_path / "merged") == sorted([*files_in(tmp_path / "base"), "adaptzip_merge.json"])
    assert report.files == tuple(files_in(tmp_path / "merged"))
    assert report.bytes == sum((tmp_path / "merged" / name).stat().st_size for name in report.files)
    assert (report.modules, report.warnings) == (len(adapter.modules), ())
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "merged" / vae).read_bytes() == (tmp_path / "base" / vae).read_bytes()


@pytest.mark.parametrize("dialect", ["diffusers", "kohya"])
def test_files_of_adapters_with_other_names(dialect: str, tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base", SD1)
    adapter = lora({**modules("unet", UNET_FOLDER), **modules("text_encoder", CLIP)})
    export(adapter, tmp_path / "lora", as_=dialect)

    merge(tmp_path / "lora", tmp_path / "base", tmp_path / "merged")

    assert_close(tmp_path / "merged", merged_by_hand(base, adapter))


def test_original_names_of_a_unet(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base", SD1)
    adapter = lora(modules("diffusion_model", UNET_FILE), dialect="kohya")

    merge(adapter, tmp_path / "base", tmp_path / "merged")

    names = dict(zip(UNET_FILE, UNET_FOLDER, strict=True))
    expected = {n: t.clone() for n, t in base["unet"].items()}
    for name, factors in adapter.modules.items():
        expected[names[f"{name.partition('.')[2]}.weight"]] += factors.weight_delta()
    assert_close(tmp_path / "merged", {"unet": expected})


def test_a_fused_layer_comes_apart(tmp_path: Path) -> None:
    """Halves that the implementations have the other way round, too."""
    base = pipeline(tmp_path / "base", FLUX)["transformer"]
    last = "diffusion_model.final_layer.adaLN_modulation.1"
    adapter = lora({QKV: (3 * D, D), last: (2 * D, D)}, dialect="kohya")

    merge(adapter, tmp_path / "base", tmp_path / "merged")

    found, delta = stored(tmp_path / "merged" / "transformer"), adapter.modules[QKV].delta()
    for number, name in enumerate("qkv"):
        key = f"transformer_blocks.0.attn.to_{name}.weight"
        assert torch.allclose(found[key], base[key] + delta[number * D : (number + 1) * D], atol=1e-5)
    turned = torch.cat(adapter.modules[last].delta().chunk(2)[::-1])
    assert torch.allclose(found["norm_out.linear.weight"], base["norm_out.linear.weight"] + turned, atol=1e-5)


def test_dora_of_a_fused_layer(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base", FLUX)["transformer"]
    adapter = lora({QKV: (3 * D, D)}, dialect="kohya")
    factors, magnitude = adapter.modules[QKV], torch.rand(3 * D, generator=torch.Generator().manual_seed(1)) + 1
    adapter = replace(adapter, modules={QKV: replace(factors, magnitude=magnitude)})

    merge(adapter, tmp_path / "base", tmp_path / "merged")

    found = stored(tmp_path / "merged" / "transformer")["transformer_blocks.0.attn.to_k.weight"]
    total = base["transformer_blocks.0.attn.to_k.weight"] + factors.delta()[D : 2 * D]
    expected = magnitude[D : 2 * D, None] * total / total.norm(dim=1, keepdim=True)
    assert torch.allclose(found, expected, atol=1e-5)

    by_input = replace(adapter, modules={QKV: replace(factors, magnitude=torch.ones(1, D))})
    with pytest.raises(RefusedError, match=r"img_attn\.qkv has a DoRA magnitude for each input"):
        merge(by_input, tmp_path / "base", tmp_path / "other")


def test_two_names_of_one_layer(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", FLUX)
    adapter = lora({QKV: (3 * D, D), "diffusion_model.transformer_blocks.0.attn.to_q": (D, D)}, dialect="kohya")
    with pytest.raises(CheckpointError, match=r"both change transformer_blocks\.0\.attn\.to_q"):
        merge(adapter, tmp_path / "base", tmp_path / "merged")


def test_half_precision_variants(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base", SD1, variant=".fp16")
    adapter = lora(modules("unet", UNET_FOLDER))

    merge(adapter, tmp_path / "base", tmp_path / "merged")

    assert_close(tmp_path / "merged", merged_by_hand(base, adapter))
    assert (tmp_path / "merged" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()


def test_what_is_not_merged_is_carried_over(tmp_path: Path) -> None:
    """Weights of other components in all their files, and none of the pipeline in one file, which is not merged."""
    pipeline(tmp_path / "base", SD1)
    save_file({"x": torch.ones(2)}, tmp_path / "base" / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    save_file({"x": torch.ones(2)}, tmp_path / "base" / "sd1.safetensors")
    (tmp_path / "base" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")

    merge(lora(modules("unet", UNET_FOLDER)), tmp_path / "base", tmp_path / "merged")

    found = set(files_in(tmp_path / "base")) - set(files_in(tmp_path / "merged"))
    assert found == {"sd1.safetensors", "unet/diffusion_pytorch_model.bin"}


def test_what_the_folder_says_of_itself(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", SD1)
    adapter = lora({**modules("unet", UNET_FOLDER), **modules("text_encoder", CLIP)})

    merge(adapter, tmp_path / "base", tmp_path / "merged", scale=0.5)

    told = json.loads((tmp_path / "merged" / "adaptzip_merge.json").read_text())
    files = ["text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors"]
    assert (told["base"]["name"], sorted(told["base"]["files"]), sorted(told["files"])) == ("base", files, files)
    assert (told["modules"], told["options"]["scale"]) == (len(adapter.modules), 0.5)
    card = (tmp_path / "merged" / "README.md").read_text()
    assert card.startswith("# A pipeline\n")
    assert f"{len(adapter.modules)} modules, 0 other tensors" in card


def test_a_merged_pipeline_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", SD1)
    adapter = lora(modules("unet", UNET_FOLDER))
    merge(adapter, tmp_path / "base", tmp_path / "merged")
    with pytest.raises(OutputError, match="exists already"):
        merge(adapter, tmp_path / "base", tmp_path / "merged")
    first = stored(tmp_path / "merged" / "unet")

    merge(adapter, tmp_path / "base", tmp_path / "merged", force=True, scale=2.0)

    assert not torch.equal(stored(tmp_path / "merged" / "unet")["conv_in.weight"], first["conv_in.weight"])
    (tmp_path / "merged" / "unet" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds unet/mine\.txt"):
        merge(adapter, tmp_path / "base", tmp_path / "merged", force=True)


def test_nothing_is_written_if_one_component_fails(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", SD1)
    adapter = lora({**modules("text_encoder", CLIP), "unet.conv_in": (D, 4, 3, 3)})
    modules_there = dict(adapter.modules)
    broken = modules_there["unet.conv_in"]
    modules_there["unet.conv_in"] = replace(broken, B=broken.B * float("inf"))

    with pytest.raises(CheckFailedError, match=r"NaN or infinity in conv_in\.weight"):
        merge(replace(adapter, modules=modules_there), tmp_path / "base", tmp_path / "merged")

    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_links_that_lead_out(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", SD1)
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (tmp_path / "base" / "vae" / "more.json").symlink_to(secret)
    with pytest.raises(RefusedError, match="leads out of the base model's folder"):
        merge(lora(modules("unet", UNET_FOLDER)), tmp_path / "base", tmp_path / "merged")


def test_a_component_that_leads_out(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", SD1)
    (tmp_path / "base" / "vae").rename(tmp_path / "vae")
    (tmp_path / "base" / "vae").symlink_to(tmp_path / "vae", target_is_directory=True)
    with pytest.raises(RefusedError, match="leads out of the base model's folder"):
        merge(lora(modules("unet", UNET_FOLDER)), tmp_path / "base", tmp_path / "merged")


def test_a_component_that_the_pipeline_lacks(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", SD1)
    adapter = lora({**modules("unet", UNET_FOLDER), **modules("text_encoder_2", CLIP)})
    with pytest.raises(
        BaseModelError, match="has no text_encoder_2, which 5 of the adapter's modules are of"
    ) as caught:
        merge(adapter, tmp_path / "base", tmp_path / "merged")
    assert "it has text_encoder, unet, vae" in str(caught.value)
    assert "the nearest there is text_encoder;" in str(caught.value.hint)
    assert not (tmp_path / "merged").exists()


def test_another_family_is_named(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", SD1)
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    with pytest.raises(BaseModelError, match="like one of Stable Diffusion 2, the base like Stable Diffusion 1"):
        merge(lora({name: (D, 1024)}), tmp_path / "base", tmp_path / "merged")


def test_an_adapter_of_one_model_finds_its_component(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base", SD1)
    adapter = lora({"conv_in": (D, 4, 3, 3)}, dialect="peft")
    adapter = replace(adapter, meta=Meta("peft", base_model="somebody/sd1/unet"))

    merge(adapter, tmp_path / "base", tmp_path / "merged")

    expected = base["unet"]["conv_in.weight"] + adapter.modules["conv_in"].weight_delta()
    assert torch.allclose(stored(tmp_path / "merged" / "unet")["conv_in.weight"], expected, atol=1e-5)


@pytest.mark.parametrize("names", ["diffusion_model", "unet"])
def test_the_folder_of_a_component(names: str, tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base", SD1)["unet"]
    shapes = UNET_FOLDER if names == "unet" else UNET_FILE
    adapter = lora(modules(names, shapes), dialect="kohya")

    merge(adapter, tmp_path / "base" / "unet", tmp_path / "merged")

    there = dict(zip(shapes, UNET_FOLDER, strict=True))
    expected = {n: t.clone() for n, t in base.items()}
    for name, factors in adapter.modules.items():
        expected[there[f"{name.partition('.')[2]}.weight"]] += factors.weight_delta()
    assert_close(tmp_path, {"merged": expected})


def test_a_fused_layer_in_the_folder_of_a_component(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base", FLUX)["transformer"]
    adapter = lora({QKV: (3 * D, D)}, dialect="kohya")

    merge(adapter, tmp_path / "base" / "transformer", tmp_path / "merged")

    key = "transformer_blocks.0.attn.to_v.weight"
    expected = base[key] + adapter.modules[QKV].delta()[2 * D :]
    assert torch.allclose(stored(tmp_path / "merged")[key], expected, atol=1e-5)


@pytest.mark.parametrize("folder", ["unet", "text_encoder"])
def test_components_beside_that_of_a_folder_are_not_lost(folder: str, tmp_path: Path) -> None:
    pipeline(tmp_path / "base", SD1)
    adapter = lora({**modules("unet", UNET_FOLDER), **modules("text_encoder", CLIP)})
    other = {"unet": "text_encoder", "text_encoder": "unet"}[folder]
    with pytest.raises(BaseModelError, match=f"has no {other}, which [0-9]+ of the adapter's modules are of"):
        merge(adapter, tmp_path / "base" / folder, tmp_path / "merged")


def test_the_folder_of_another_component(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", {"unet": UNET_FOLDER, "text_encoder": CLIP, "text_encoder_2": CLIP})
    with pytest.raises(BaseModelError, match="has no text_encoder, which 5"):
        merge(lora(modules("text_encoder", CLIP)), tmp_path / "base" / "text_encoder_2", tmp_path / "merged")


def test_names_of_the_original_that_the_base_lacks(tmp_path: Path) -> None:
    pipeline(tmp_path / "base", FLUX)
    adapter = lora({"diffusion_model.double_blocks.7.img_attn.qkv": (3 * D, D)}, dialect="kohya")
    with pytest.raises(BaseModelError, match=r"lacks 1 of the adapter's 1 modules: double_blocks\.7\.img_attn\.qkv"):
        merge(adapter, tmp_path / "base", tmp_path / "merged")


def test_rules_fit_the_names_that_a_file_has() -> None:
    """The two forms of the tiny base are of one model."""
    assert sum(torch.Size(shape).numel() for shape in FLUX_FILE.values()) == sum(
        torch.Size(shape).numel() for shape in FLUX_FOLDER.values()
    )


def test_a_bias_of_a_fused_layer_comes_apart(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base", FLUX)["transformer"]
    bias = torch.randn(3 * D, generator=torch.Generator().manual_seed(2))
    adapter = replace(lora({QKV: (3 * D, D)}, dialect="comfyui"), extras={f"base_model.model.{QKV}.bias": bias})

    merge(resolved(adapter), tmp_path / "base", tmp_path / "merged")

    found = stored(tmp_path / "merged" / "transformer")
    for number, name in enumerate("qkv"):
        key = f"transformer_blocks.0.attn.to_{name}.bias"
        assert torch.allclose(found[key], base[key] + bias[number * D : (number + 1) * D], atol=1e-6)


def test_a_variant_in_several_files(tmp_path: Path) -> None:
    base = pipeline(tmp_path / "base", SD1)
    folder = tmp_path / "base" / "unet"
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    names = sorted(base["unet"])
    files = {"one": names[:3], "two": names[3:]}
    for number, held in enumerate(files.values(), 1):
        file = folder / f"diffusion_pytorch_model.fp16-0000{number}-of-00002.safetensors"
        save_file({name: base["unet"][name] for name in held}, file)
    weight_map = {
        name: f"diffusion_pytorch_model.fp16-0000{number}-of-00002.safetensors"
        for number, held in enumerate(files.values(), 1)
        for name in held
    }
    index = "diffusion_pytorch_model.safetensors.index.fp16.json"
    (folder / index).write_text(json.dumps({"weight_map": weight_map}))
    adapter = lora(modules("unet", UNET_FOLDER))

    report = merge(adapter, tmp_path / "base", tmp_path / "merged")

    assert f"unet/{index}" in report.files
    assert json.loads((tmp_path / "merged" / "unet" / index).read_text())["weight_map"] == weight_map
    merged = BaseModel.open(tmp_path / "merged" / "unet")
    for name, factors in adapter.modules.items():
        key = f"{name.partition('.')[2]}.weight"
        assert torch.allclose(merged.read(key), base["unet"][key] + factors.weight_delta(), atol=1e-5)


@pytest.mark.parametrize("name", ["out.safetensors", "out.gguf"])
def test_a_folder_that_is_called_as_a_file(name: str, tmp_path: Path) -> None:
    pipeline(tmp_path / "base", SD1)
    with pytest.raises(UsageError, match=f"{name}: is called as a file, and .*base is a folder") as error:
        merge(lora(modules("unet", UNET_FOLDER)), tmp_path / "base", tmp_path / name)
    assert error.value.hint == f"name a folder: `output='{tmp_path / 'out'}'`"
