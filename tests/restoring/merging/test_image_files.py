"""Merging into files in the names of an original implementation, where layers of the adapter are rows of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.core.adapter import Adapter
from adaptzip.core.effects import Effect, Effects
from adaptzip.errors import BaseModelError, OutputError, RefusedError, UsageError
from adaptzip.restoring.exporting import export
from adaptzip.restoring.merging import merge, weights
from adaptzip.restoring.merging.provenance import load_provenance, told_command
from tests.cases.image_bases import (
    CLIP,
    FLUX_FILE,
    FLUX_FOLDER,
    SD1_FILE,
    SDXL_TEXTS,
    T5,
    UNET_FILE,
    UNET_FOLDER,
    D,
    Shapes,
    base_file,
    lora,
    modules,
    random,
    under,
)

FLUX_BASE = under("model.diffusion_model.", FLUX_FILE)
PLACES = {
    "transformer_blocks.0.attn.to_q": ("double_blocks.0.img_attn.qkv", 0, D),
    "transformer_blocks.0.attn.to_k": ("double_blocks.0.img_attn.qkv", D, 2 * D),
    "transformer_blocks.0.attn.to_v": ("double_blocks.0.img_attn.qkv", 2 * D, 3 * D),
    "transformer_blocks.0.attn.to_out.0": ("double_blocks.0.img_attn.proj", 0, D),
    "transformer_blocks.0.norm1.linear": ("double_blocks.0.img_mod.lin", 0, 6 * D),
    "transformer_blocks.0.ff.net.0.proj": ("double_blocks.0.img_mlp.0", 0, 4 * D),
    "transformer_blocks.0.ff.net.2": ("double_blocks.0.img_mlp.2", 0, D),
    "single_transformer_blocks.0.attn.to_q": ("single_blocks.0.linear1", 0, D),
    "single_transformer_blocks.0.attn.to_k": ("single_blocks.0.linear1", D, 2 * D),
    "single_transformer_blocks.0.attn.to_v": ("single_blocks.0.linear1", 2 * D, 3 * D),
    "single_transformer_blocks.0.proj_mlp": ("single_blocks.0.linear1", 3 * D, 7 * D),
    "single_transformer_blocks.0.proj_out": ("single_blocks.0.linear2", 0, D),
    "single_transformer_blocks.0.norm.linear": ("single_blocks.0.modulation.lin", 0, 3 * D),
    "x_embedder": ("img_in", 0, D),
    "proj_out": ("final_layer.linear", 0, 8),
}


def halves_swapped(rows: Tensor) -> Tensor:
    return torch.cat(rows.chunk(2)[::-1])


def expected_flux(base: Mapping[str, Tensor], adapter: Adapter) -> dict[str, Tensor]:
    """The sums by hand, in the rows that diffusers' names of layers mean."""
    found = {name: tensor.clone() for name, tensor in base.items()}
    for name, factors in adapter.modules.items():
        path = name.partition(".")[2]
        if path == "norm_out.linear":
            found["model.diffusion_model.final_layer.adaLN_modulation.1.weight"] += halves_swapped(factors.delta())
        else:
            tensor, first, last = PLACES[path]
            found[f"model.diffusion_model.{tensor}.weight"][first:last] += factors.delta()
    return found


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_layers_that_are_rows_of_one_layer(tmp_path: Path) -> None:
    base = base_file(tmp_path / "flux.safetensors", FLUX_BASE)
    adapter = lora(modules("transformer", FLUX_FOLDER))

    report = merge(adapter, tmp_path / "flux.safetensors", tmp_path / "merged.safetensors")

    assert_same(load_file(tmp_path / "merged.safetensors"), expected_flux(base, adapter))
    assert (report.modules, report.extras, report.files) == (len(adapter.modules), 0, ("merged.safetensors",))
    assert report.bytes == (tmp_path / "merged.safetensors").stat().st_size


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_the_same_layers_in_original_names(prefix: str, tmp_path: Path) -> None:
    """A layer that is one in both is merged as one, with the same numbers as in rows."""
    base = base_file(tmp_path / "flux.safetensors", under(prefix, FLUX_FILE))
    adapter = lora(modules("diffusion_model", FLUX_FILE), dialect="comfyui")

    merge(adapter, tmp_path / "flux.safetensors", tmp_path / "merged.safetensors")

    expected = {n: t.clone() for n, t in base.items()}
    for name, factors in adapter.modules.items():
        expected[f"{prefix}{name.partition('.')[2]}.weight"] += factors.delta()
    assert_same(load_file(tmp_path / "merged.safetensors"), expected)


@pytest.mark.parametrize("dialect", ["comfyui", "diffusers"])
def test_files_of_adapters_in_both_spellings(dialect: str, tmp_path: Path) -> None:
    base = base_file(tmp_path / "flux.safetensors", FLUX_BASE)
    adapter = lora(modules("transformer", FLUX_FOLDER))
    export(adapter, tmp_path / "lora", as_=dialect)

    merge(tmp_path / "lora", tmp_path / "flux.safetensors", tmp_path / "merged.safetensors")

    found, expected = load_file(tmp_path / "merged.safetensors"), expected_flux(base, adapter)
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)


def test_blocks_of_rows_end_where_layers_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that is written in blocks, of which some hold rows of two layers, has the same bits as in one piece."""
    shapes = {"double_blocks.0.img_attn.qkv.weight": (3 * 192, 192), "img_in.weight": (192, 8)}
    base_file(tmp_path / "flux.safetensors", shapes, torch.bfloat16)
    names = {f"transformer.transformer_blocks.0.attn.to_{n}": (192, 192) for n in "qkv"}
    adapter = lora(names)
    magnitude = torch.rand(192, generator=torch.Generator().manual_seed(3)) + 1
    dora = {n: replace(f, magnitude=magnitude) if n.endswith("to_k") else f for n, f in adapter.modules.items()}
    whole = merge(replace(adapter, modules=dora), tmp_path / "flux.safetensors", tmp_path / "whole.safetensors")
    monkeypatch.setattr(weights, "BLOCK", 128 * 192)

    merge(replace(adapter, modules=dora), tmp_path / "flux.safetensors", tmp_path / "blocks.safetensors")

    assert_same(load_file(tmp_path / "blocks.safetensors"), load_file(whole.path))


def test_dora_has_norms_of_its_own_rows(tmp_path: Path) -> None:
    base = base_file(tmp_path / "flux.safetensors", FLUX_BASE)
    adapter = lora({"transformer.transformer_blocks.0.attn.to_k": (D, D)})
    (name, factors) = next(iter(adapter.modules.items()))
    magnitude = torch.rand(D, generator=torch.Generator().manual_seed(3)) + 1
    adapter = replace(adapter, modules={name: replace(factors, magnitude=magnitude)})

    merge(adapter, tmp_path / "flux.safetensors", tmp_path / "merged.safetensors")

    key = "model.diffusion_model.double_blocks.0.img_attn.qkv.weight"
    found, before = load_file(tmp_path / "merged.safetensors")[key], base[key]
    total = before[D : 2 * D] + factors.delta()
    assert torch.allclose(found[D : 2 * D], magnitude[:, None] * total / total.norm(dim=1, keepdim=True), atol=1e-6)
    assert torch.equal(found[:D], before[:D])
    assert torch.equal(found[2 * D :], before[2 * D :])


def test_dora_with_a_norm_of_each_input(tmp_path: Path) -> None:
    """Its norm is over the rows of its own layer, and not of those that lie beside them."""
    base = base_file(tmp_path / "flux.safetensors", FLUX_BASE)
    adapter = lora({"transformer.transformer_blocks.0.attn.to_v": (D, D)})
    (name, factors) = next(iter(adapter.modules.items()))
    magnitude = torch.rand(1, D, generator=torch.Generator().manual_seed(3)) + 1
    adapter = replace(adapter, modules={name: replace(factors, magnitude=magnitude)})

    merge(adapter, tmp_path / "flux.safetensors", tmp_path / "merged.safetensors")

    key = "model.diffusion_model.double_blocks.0.img_attn.qkv.weight"
    total = base[key][2 * D :] + factors.delta()
    expected = magnitude * total / total.norm(dim=0, keepdim=True)
    assert torch.allclose(load_file(tmp_path / "merged.safetensors")[key][2 * D :], expected, atol=1e-6)


def test_a_pipeline_in_one_file(tmp_path: Path) -> None:
    """A UNet in diffusers' names, convolutions among them, and its text encoder."""
    base = base_file(tmp_path / "sd1.safetensors", SD1_FILE)
    adapter = lora({**modules("unet", UNET_FOLDER), **modules("text_encoder", CLIP)})

    merge(adapter, tmp_path / "sd1.safetensors", tmp_path / "merged.safetensors")

    names = dict(zip(UNET_FOLDER, UNET_FILE, strict=True))
    expected = {n: t.clone() for n, t in base.items()}
    for name, factors in adapter.modules.items():
        component, _, path = name.partition(".")
        inner = f"{path}.weight"
        key = (
            f"model.diffusion_model.{names[inner]}" if component == "unet" else f"cond_stage_model.transformer.{inner}"
        )
        expected[key] += factors.weight_delta()
    found = load_file(tmp_path / "merged.safetensors")
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)
    untouched = [name for name in base if torch.equal(found[name], base[name])]
    assert {name for name in untouched if name.endswith(".weight")} == {
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
        "first_stage_model.decoder.conv_in.weight",
    }


def test_queries_keys_and_values_of_openclip(tmp_path: Path) -> None:
    base = base_file(tmp_path / "sdxl.safetensors", SDXL_TEXTS)
    adapter = lora({**modules("text_encoder", CLIP), **modules("text_encoder_2", CLIP)})

    merge(adapter, tmp_path / "sdxl.safetensors", tmp_path / "merged.safetensors")

    begin = "conditioner.embedders.1.model.transformer.resblocks.0."
    parts = {p: adapter.modules[f"text_encoder_2.text_model.encoder.layers.0.{p}"] for p in (
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1",
    )}  # fmt: skip
    found = load_file(tmp_path / "merged.safetensors")
    fused = torch.cat([parts[f"self_attn.{n}_proj"].delta() for n in "qkv"])
    for name, delta in {
        "attn.in_proj_weight": fused,
        "attn.out_proj.weight": parts["self_attn.out_proj"].delta(),
        "mlp.c_fc.weight": parts["mlp.fc1"].delta(),
    }.items():
        assert torch.equal(found[begin + name], base[begin + name] + delta)


def test_text_encoders_as_comfyui_keeps_them(tmp_path: Path) -> None:
    shapes = {
        **FLUX_BASE,
        **under("text_encoders.clip_l.transformer.", CLIP),
        **under("text_encoders.t5xxl.transformer.", T5),
    }
    base = base_file(tmp_path / "flux.safetensors", shapes)
    q, t5 = "text_model.encoder.layers.0.self_attn.q_proj", "encoder.block.0.layer.0.SelfAttention.q"
    adapter = lora({f"text_encoder.{q}": (D, D), f"text_encoder_2.{t5}": (D, D)})

    merge(adapter, tmp_path / "flux.safetensors", tmp_path / "merged.safetensors")

    found = load_file(tmp_path / "merged.safetensors")
    for place, name in (("text_encoder", f"clip_l.transformer.{q}"), ("text_encoder_2", f"t5xxl.transformer.{t5}")):
        path = name.partition(".transformer.")[2]
        key = f"text_encoders.{name}.weight"
        assert torch.equal(found[key], base[key] + adapter.modules[f"{place}.{path}"].delta())


def test_tensors_beside_the_factors_go_to_their_rows(tmp_path: Path) -> None:
    """A bias of queries alone is a third of the fused one."""
    base = base_file(tmp_path / "flux.safetensors", FLUX_BASE)
    adapter = lora({"transformer.transformer_blocks.0.attn.to_q": (D, D)})
    tensor = "transformer.transformer_blocks.0.attn.to_k.bias"
    key = f"base_model.model.{tensor}"
    extras = {key: torch.arange(D).float()}
    adapter = replace(adapter, extras=extras, effects=Effects({key: Effect("add", tensor)}))

    report = merge(adapter, tmp_path / "flux.safetensors", tmp_path / "merged.safetensors")

    stored = "model.diffusion_model.double_blocks.0.img_attn.qkv.bias"
    found = load_file(tmp_path / "merged.safetensors")[stored]
    assert torch.equal(found[D : 2 * D], base[stored][D : 2 * D] + extras[key])
    assert torch.equal(found[:D], base[stored][:D])
    assert report.extras == 1


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    base_file(tmp_path / "flux.safetensors", FLUX_BASE, metadata={"modelspec.title": "F", "modelspec.hash_sha256": "0"})
    adapter = lora({"transformer.x_embedder": (D, 8), "transformer.proj_out": (8, D)})
    export(adapter, tmp_path / "lora", as_="diffusers")

    merge(tmp_path / "lora", tmp_path / "flux.safetensors", tmp_path / "merged.safetensors", scale=0.5)

    with safe_open(tmp_path / "merged.safetensors", "pt") as file:
        metadata = dict(file.metadata())
    told = json.loads(metadata.pop("adaptzip_merge"))
    assert metadata == {"modelspec.title": "F"}
    assert told["base"]["name"] == "flux.safetensors"
    assert [adapter["name"] for adapter in told["adapters"]] == ["lora"]
    assert (told["options"]["scale"], told["modules"]) == (0.5, 2)
    assert str(tmp_path) not in json.dumps(told)


def test_a_merge_of_a_merge_tells_of_the_last(tmp_path: Path) -> None:
    base_file(tmp_path / "flux.safetensors", FLUX_BASE)
    adapter = lora({"transformer.x_embedder": (D, 8)})
    first = merge(adapter, tmp_path / "flux.safetensors", tmp_path / "one.safetensors")

    merge(adapter, first.path, tmp_path / "two.safetensors")

    with safe_open(tmp_path / "two.safetensors", "pt") as file:
        assert json.loads(file.metadata()["adaptzip_merge"])["base"]["name"] == "one.safetensors"


@pytest.mark.parametrize("safe", [False, True])
def test_half_precision_is_rounded_as_elsewhere(safe: bool, tmp_path: Path) -> None:
    base = base_file(tmp_path / "flux.safetensors", FLUX_BASE, torch.bfloat16)
    adapter = lora({"transformer.transformer_blocks.0.attn.to_q": (D, D)})

    merge(adapter, tmp_path / "flux.safetensors", tmp_path / "merged.safetensors", safe_merge=safe)

    key = "model.diffusion_model.double_blocks.0.img_attn.qkv.weight"
    delta = next(iter(adapter.modules.values())).delta()
    before = base[key][:D]
    expected = before + delta.bfloat16() if safe else (before.float() + delta).bfloat16()
    assert torch.equal(load_file(tmp_path / "merged.safetensors")[key][:D], expected)


def test_one_component_alone_in_a_file(tmp_path: Path) -> None:
    base = base_file(tmp_path / "t5.safetensors", T5)
    name = "encoder.block.0.layer.0.SelfAttention.q"
    adapter = lora({f"text_encoder_3.{name}": (D, D)})

    merge(adapter, tmp_path / "t5.safetensors", tmp_path / "merged.safetensors")

    expected = base[f"{name}.weight"] + adapter.modules[f"text_encoder_3.{name}"].delta()
    assert torch.equal(load_file(tmp_path / "merged.safetensors")[f"{name}.weight"], expected)


def refused(adapter: Adapter, shapes: Shapes, folder: Path) -> BaseModelError:
    base_file(folder / "base.safetensors", shapes)
    with pytest.raises(BaseModelError) as caught:
        merge(adapter, folder / "base.safetensors", folder / "merged.safetensors")
    assert [path.name for path in folder.iterdir()] == ["base.safetensors"]
    return caught.value


def test_another_family_is_named(tmp_path: Path) -> None:
    deep = "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k"
    error = refused(lora({deep: (D, 2048)}), SD1_FILE, tmp_path)

    assert "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k" in str(error)
    assert "looks like one of Stable Diffusion XL, the base like Stable Diffusion 1" in str(error)


def test_another_transformer_is_named(tmp_path: Path) -> None:
    error = refused(lora(modules("transformer", FLUX_FOLDER)), SD1_FILE, tmp_path)

    assert "the adapter looks like one of Flux, the base like Stable Diffusion 1" in str(error)


def test_a_shape_that_does_not_fit(tmp_path: Path) -> None:
    error = refused(lora({"transformer.transformer_blocks.0.attn.to_q": (2 * D, D)}), FLUX_BASE, tmp_path)

    assert "transformer_blocks.0.attn.to_q.weight is [32, 32]" in str(error)


def test_a_component_that_the_file_lacks(tmp_path: Path) -> None:
    adapter = lora({"transformer.x_embedder": (D, 8), **modules("text_encoder", CLIP)})
    error = refused(adapter, FLUX_BASE, tmp_path)

    assert "has no text_encoder, which 5 of the adapter's modules are of" in str(error)
    assert "text_encoder.text_model.encoder.layers.0" in str(error)


def test_components_of_a_file_that_is_one_model(tmp_path: Path) -> None:
    adapter = lora({"transformer.x_embedder": (D, 8), **modules("text_encoder", CLIP)})

    assert "it has one model, without the names of components" in str(refused(adapter, FLUX_FILE, tmp_path))


def test_the_second_denoiser_of_a_pipeline(tmp_path: Path) -> None:
    assert "has no transformer_2" in str(refused(lora({"transformer_2.x_embedder": (D, 8)}), FLUX_BASE, tmp_path))


def test_two_names_of_one_layer(tmp_path: Path) -> None:
    base_file(tmp_path / "base.safetensors", FLUX_BASE)
    adapter = lora({"transformer.x_embedder": (D, 8), "diffusion_model.img_in": (D, 8)})

    with pytest.raises(RefusedError, match="diffusion_model and transformer are both of one model"):
        merge(adapter, tmp_path / "base.safetensors", tmp_path / "merged.safetensors")


def test_an_adapter_of_a_single_model(tmp_path: Path) -> None:
    base_file(tmp_path / "base.safetensors", FLUX_BASE)
    with pytest.raises(RefusedError, match="the adapter is no image model"):
        merge(
            lora({"layers.0.q_proj": (D, D)}, dialect="peft"), tmp_path / "base.safetensors", tmp_path / "m.safetensors"
        )


def test_the_output_is_a_file(tmp_path: Path) -> None:
    base_file(tmp_path / "base.safetensors", FLUX_BASE)
    adapter = lora({"transformer.x_embedder": (D, 8)})
    with pytest.raises(UsageError, match=r"expected the name of a \.safetensors file") as caught:
        merge(adapter, tmp_path / "base.safetensors", tmp_path / "merged")
    assert "merged.safetensors" in str(caught.value.hint)

    (tmp_path / "merged.safetensors").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        merge(adapter, tmp_path / "base.safetensors", tmp_path / "merged.safetensors")
    merge(adapter, tmp_path / "base.safetensors", tmp_path / "merged.safetensors", force=True)
    assert load_file(tmp_path / "merged.safetensors").keys() == FLUX_BASE.keys()


def test_the_weight_file_of_a_folder(tmp_path: Path) -> None:
    base_file(tmp_path / "model.safetensors", {"layers.0.q_proj.weight": (D, D)})
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(BaseModelError, match="is the weight file of a model") as caught:
        merge(lora({"layers.0.q_proj": (D, D)}), tmp_path / "model.safetensors", tmp_path / "merged.safetensors")
    assert str(tmp_path) in str(caught.value.hint)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(BaseModelError, match=r"expected the folder of a base model, or an image model's \.safetensors"):
        merge(lora({"transformer.x_embedder": (D, 8)}), tmp_path / "model.ckpt", tmp_path / "merged.safetensors")


def test_untie_is_for_language_models(tmp_path: Path) -> None:
    base_file(tmp_path / "base.safetensors", FLUX_BASE)
    with pytest.raises(UsageError, match="no tied embeddings"):
        merge(
            lora({"transformer.x_embedder": (D, 8)}),
            tmp_path / "base.safetensors",
            tmp_path / "m.safetensors",
            untie=True,
        )


def test_a_layer_of_another_dtype_is_named(tmp_path: Path) -> None:
    tensors = random(FLUX_BASE)
    key = "model.diffusion_model.img_in.weight"
    tensors[key] = tensors[key].long()
    save_file(tensors, tmp_path / "base.safetensors")
    with pytest.raises(RefusedError, match=r"x_embedder\.weight is stored as int64"):
        merge(lora({"transformer.x_embedder": (D, 8)}), tmp_path / "base.safetensors", tmp_path / "merged.safetensors")


def test_a_fused_layer_and_a_part_of_it(tmp_path: Path) -> None:
    """Both are added to the same rows, as the live adapter would."""
    base = base_file(tmp_path / "base.safetensors", FLUX_BASE)
    names = {
        "diffusion_model.double_blocks.0.img_attn.qkv": (3 * D, D),
        "diffusion_model.transformer_blocks.0.attn.to_q": (D, D),
    }
    adapter = lora(names)

    merge(adapter, tmp_path / "base.safetensors", tmp_path / "merged.safetensors")

    fused, part = (adapter.modules[name].delta() for name in names)
    key = "model.diffusion_model.double_blocks.0.img_attn.qkv.weight"
    found = load_file(tmp_path / "merged.safetensors")[key]
    expected = base[key] + fused
    expected[:D] += part
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_file_of_float8_is_written_in_bfloat16(tmp_path: Path) -> None:
    """As checkpoints of large denoisers are handed on: matrices in float8 without scales, the rest in bfloat16."""
    base = random(FLUX_BASE)
    stored = {n: t.to(torch.float8_e4m3fn if t.ndim > 1 else torch.bfloat16) for n, t in base.items()}
    save_file(stored, tmp_path / "base.safetensors")
    adapter = lora(modules("transformer", FLUX_FOLDER))
    with pytest.raises(RefusedError, match="is quantised") as refused:
        merge(adapter, tmp_path / "base.safetensors", tmp_path / "out.safetensors")
    assert "`dequantise=True`" in str(refused.value.hint)
    report = merge(adapter, tmp_path / "base.safetensors", tmp_path / "out.safetensors", dequantise=True)
    exact = {name: tensor.float() for name, tensor in stored.items()}
    wanted = expected_flux(exact, adapter)
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(found[name], tensor.bfloat16()), name
    lost = sum(float((found[n].double() - t.double()).square().sum()) for n, t in wanted.items())
    size = sum(float((t.double() - exact[n].double()).square().sum()) for n, t in wanted.items())
    assert report.rounding is not None
    assert report.rounding.kept == pytest.approx(1 - lost / size, rel=1e-6)


def test_what_a_file_is_not_asked_for(tmp_path: Path) -> None:
    base_file(tmp_path / "base.safetensors", FLUX_BASE)
    adapter = lora(modules("transformer", FLUX_FOLDER))
    with pytest.raises(UsageError, match="is not quantised"):
        merge(adapter, tmp_path / "base.safetensors", tmp_path / "out.safetensors", dequantise=True)
    with pytest.raises(UsageError, match="`requantise=True` is for folders"):
        merge(adapter, tmp_path / "base.safetensors", tmp_path / "out.safetensors", requantise=True)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_file_that_fails(error: type[BaseException], tmp_path: Path) -> None:
    base_file(tmp_path / "base.safetensors", FLUX_BASE)

    def fail(phase: str, done: float, total: float) -> None:
        raise error

    with pytest.raises(error):
        merge(
            lora(modules("transformer", FLUX_FOLDER)),
            tmp_path / "base.safetensors",
            tmp_path / "out.safetensors",
            progress=fail,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["base.safetensors"]


def test_a_file_says_how_it_was_made(tmp_path: Path) -> None:
    base_file(tmp_path / "base.safetensors", FLUX_BASE)
    export(lora(modules("transformer", FLUX_FOLDER)), tmp_path / "lora.safetensors")
    merge(tmp_path / "lora.safetensors", tmp_path / "base.safetensors", tmp_path / "out.safetensors", scale=0.5)
    told = load_provenance(tmp_path / "out.safetensors")
    assert told is not None
    assert told_command(told) == "--base base.safetensors --adapter lora.safetensors --scale 0.5"
    assert load_provenance(tmp_path / "base.safetensors") is None
