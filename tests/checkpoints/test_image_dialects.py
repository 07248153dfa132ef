"""Adapters of image models: updates of every kind of module against dense products, names there and back, and bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import adaptzip
from adaptzip.checkpoints._image import unet
from adaptzip.checkpoints._image.families import FAMILIES
from adaptzip.checkpoints._image.rules import Family
from adaptzip.checkpoints._image.spellings import to_diffusers, to_original
from adaptzip.checkpoints._image.vocabulary import dotted, words_for
from adaptzip.cli.app import main
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipError, AdaptzipWarning, CheckpointError, RefusedError

R: Callable[..., Tensor] = torch.randn
ALPHA = torch.tensor(3.0)


def saved(folder: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "x.safetensors", metadata)
    return folder / "x.safetensors"


def one(
    folder: Path, parts: Mapping[str, Tensor], name: str = "lora_unet_mid_block_resnets_0_conv1"
) -> adaptzip.LoraFactors:
    """The module that a file with these parts of one module holds."""
    found = adaptzip.read(saved(folder, {f"{name}.{part}": tensor for part, tensor in parts.items()}))
    assert list(found.modules) == ["unet.mid_block.resnets.0.conv1"]
    return found.modules["unet.mid_block.resnets.0.conv1"]


def locon(p: Mapping[str, Tensor]) -> Tensor:
    return 3 / 4 * (p["lora_up.weight"].flatten(1) @ p["lora_down.weight"].flatten(1))


def tucker(p: Mapping[str, Tensor]) -> Tensor:
    up, down = p["lora_up.weight"].flatten(1), p["lora_down.weight"].flatten(1)
    return 3 / 4 * torch.einsum("ijkl,oi,jc->ockl", p["lora_mid.weight"], up, down)


def loha(p: Mapping[str, Tensor]) -> Tensor:
    first, second = (p[f"hada_w{n}_a"] @ p[f"hada_w{n}_b"].flatten(1) for n in (1, 2))
    return 3 / 4 * first * second


def loha_tucker(p: Mapping[str, Tensor]) -> Tensor:
    first, second = (
        torch.einsum("ijkl,jr,ip->prkl", p[f"hada_t{n}"], p[f"hada_w{n}_b"], p[f"hada_w{n}_a"]) for n in (1, 2)
    )
    return 3 / 4 * first * second


def lokr(p: Mapping[str, Tensor]) -> Tensor:
    """The rank is that of the second matrix's factors, else of the first's; of two whole ones there is no scale."""
    first = p["lokr_w1"] if "lokr_w1" in p else p["lokr_w1_a"] @ p["lokr_w1_b"]
    rank = p["lokr_w2_b"].shape[0] if "lokr_w2_b" in p else p["lokr_w1_b"].shape[0] if "lokr_w1_b" in p else 3
    if "lokr_t2" in p:
        second = torch.einsum("ijkl,ip,jr->prkl", p["lokr_t2"], p["lokr_w2_a"], p["lokr_w2_b"])
    elif "lokr_w2" in p:
        second = p["lokr_w2"]
    else:
        b = p["lokr_w2_b"]
        second = (p["lokr_w2_a"] @ b.flatten(1)).reshape(-1, *b.shape[1:])
    return 3 / rank * torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())


KINDS: dict[str, tuple[dict[str, Tensor], Callable[[Mapping[str, Tensor]], Tensor]]] = {
    "lora": ({"lora_up.weight": R(16, 4), "lora_down.weight": R(4, 12)}, locon),
    "convolution": ({"lora_up.weight": R(16, 4, 1, 1), "lora_down.weight": R(4, 6, 3, 3)}, locon),
    "tucker": (
        {"lora_up.weight": R(16, 4, 1, 1), "lora_down.weight": R(4, 6, 1, 1), "lora_mid.weight": R(4, 4, 3, 3)}, tucker,
    ),
    "loha": ({f"hada_w{n}_{x}": R(*s) for n in (1, 2) for x, s in (("a", (16, 4)), ("b", (4, 24)))}, loha),
    "loha of a convolution": (
        {f"hada_w{n}_{x}": R(*s) for n in (1, 2) for x, s in (("a", (32, 4)), ("b", (4, 54)))}, loha,
    ),
    "loha with cores": (
        {f"hada_{x}": R(*s) for n in (1, 2) for x, s in (
            (f"w{n}_a", (4, 16)), (f"w{n}_b", (4, 6)), (f"t{n}", (4, 4, 3, 3)))},
        loha_tucker,
    ),
    "lokr of a whole and a product": (
        {"lokr_w1": R(4, 3), "lokr_w2_a": R(8, 2), "lokr_w2_b": R(2, 4)}, lokr,
    ),
    "lokr of two products": (
        {"lokr_w1_a": R(4, 2), "lokr_w1_b": R(2, 3), "lokr_w2_a": R(8, 2), "lokr_w2_b": R(2, 4)}, lokr,
    ),
    "lokr of a product and a whole": ({"lokr_w1_a": R(4, 2), "lokr_w1_b": R(2, 3), "lokr_w2": R(8, 4)}, lokr),
    "lokr of two whole": ({"lokr_w1": R(4, 3), "lokr_w2": R(8, 4)}, lokr),
    "lokr of a convolution": (
        {"lokr_w1": R(4, 2), "lokr_w2_a": R(8, 2), "lokr_w2_b": R(2, 3, 3, 3)}, lokr,
    ),
    "lokr with a core": (
        {"lokr_w1": R(4, 2), "lokr_t2": R(2, 2, 3, 3), "lokr_w2_a": R(2, 8), "lokr_w2_b": R(2, 3)}, lokr,
    ),
    "a whole difference": ({"diff": R(16, 12)}, lambda p: p["diff"]),
    "a whole difference of a convolution": ({"diff": R(16, 6, 3, 3)}, lambda p: p["diff"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_module_is_its_dense_update(kind: str, tmp_path: Path) -> None:
    parts, dense = KINDS[kind]
    wanted = dense(parts)

    found = one(tmp_path, parts | {"alpha": ALPHA})

    assert found.layout == ("conv" if found.kernel else "linear")
    assert torch.allclose(found.weight_delta(), wanted.reshape(found.weight_delta().shape), atol=1e-4, rtol=1e-5)


def test_without_alpha_the_scale_is_one_and_whole_numbers_are_alphas(tmp_path: Path) -> None:
    parts = {"lora_up.weight": R(16, 4), "lora_down.weight": R(4, 12)}
    assert one(tmp_path, parts).scaling == 1.0
    assert one(tmp_path, parts | {"alpha": torch.tensor(2)}).scaling == 0.5


def test_a_magnitude_of_inputs_is_told_from_one_of_outputs(tmp_path: Path) -> None:
    parts = {"lora_up.weight": R(12, 4), "lora_down.weight": R(4, 12)}
    assert one(tmp_path, parts | {"dora_scale": R(12, 1)}).magnitude.shape == (12,)  # type: ignore[union-attr]
    assert one(tmp_path, parts | {"dora_scale": R(1, 12)}).magnitude.shape == (1, 12)  # type: ignore[union-attr]


PATHS = (
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0",
    "down_blocks.1.downsamplers.0.conv",
    "up_blocks.2.resnets.2.conv_shortcut",
    "time_embedding.linear_1",
    "transformer_blocks.10.attn.add_k_proj",
    "transformer_blocks.3.img_mlp.net.0.proj",
    "double_blocks.18.img_attn.qkv",
    "single_blocks.37.modulation.lin",
    "joint_blocks.2.context_block.mlp.fc1",
    "text_model.encoder.layers.0.self_attn.out_proj",
    "encoder.block.0.layer.1.DenseReluDense.wi_0",
    "blocks.0.cross_attn.k_img",
    "input_blocks.4.1.transformer_blocks.1.ff.net.0.proj",
)


@pytest.mark.parametrize("path", PATHS)
def test_a_name_with_underscores_comes_apart_and_back(path: str) -> None:
    flat = path.replace(".", "_")
    assert dotted(flat, words_for([flat])) == path


def test_one_family_has_as_one_word_what_another_has_as_two() -> None:
    names = ["double_blocks_0_img_attn_qkv", "double_blocks_0_img_mod_linear"]
    assert dotted(names[0], words_for(names)) == "double_blocks.0.img_attn_qkv"
    assert dotted(names[0], words_for(names[:1])) == "double_blocks.0.img_attn.qkv"


def numbered(rule_name: str) -> str:
    return rule_name.replace("#", "3")


def of_family(family: Family) -> dict[str, adaptzip.LoraFactors]:
    """An update of every layer of a family, in original names, with widths that its shares of rows ask for."""
    modules = {}
    for rule in family.rules:
        out, width = (8 * sum(rule.shares), 8) if rule.ratio is None else (8 * n for n in rule.ratio.as_integer_ratio())
        modules[f"diffusion_model.{numbered(rule.original)}"] = adaptzip.LoraFactors(R(2, width), R(out, 2), 0.5)
    return dict(sorted(modules.items()))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.title)
def test_layers_that_are_cut_otherwise_come_together_again(family: Family) -> None:
    modules = of_family(family)
    cut = to_diffusers(modules)
    assert {name.partition(".")[0] for name in cut} == {"transformer"}
    assert sum(len(rule.diffusers) for rule in family.rules) == len(cut)
    # Qwen-Image has diffusers' names in its original, whose component they tell.
    back = {name.partition(".")[2]: factors for name, factors in to_original(cut).items()}
    assert back.keys() == {name.partition(".")[2] for name in modules}
    for name, factors in modules.items():
        again = back[name.partition(".")[2]]
        assert torch.equal(again.A, factors.A), name
        assert torch.equal(again.B, factors.B), name


def test_parts_of_other_factors_lie_beside_each_other_and_missing_ones_stay() -> None:
    names = [f"transformer.single_transformer_blocks.0.attn.{name}" for name in ("to_q", "to_v")]
    parts = {name: adaptzip.LoraFactors(R(2, 8), R(8, 2), 2.0) for name in names}

    fused = to_original(parts)["diffusion_model.single_blocks.0.linear1"]

    assert fused.rank == 4
    delta = fused.delta()
    assert delta.shape == (56, 8)
    q, v = (parts[name].delta() for name in names)
    assert torch.allclose(delta, torch.cat([q, torch.zeros(8, 8), v, torch.zeros(32, 8)]))


@pytest.mark.parametrize("deep", [True, False])
def test_names_in_a_unet_go_there_and_back(deep: bool) -> None:
    for name in (
        "conv_in", "conv_out", "time_embedding.linear_1", "down_blocks.0.resnets.1.conv2",
        "down_blocks.1.attentions.0.proj_in", "down_blocks.0.downsamplers.0.conv", "mid_block.attentions.0.proj_out",
        "mid_block.resnets.1.time_emb_proj", "up_blocks.0.upsamplers.0.conv", "up_blocks.1.upsamplers.0.conv",
        "up_blocks.2.attentions.2.transformer_blocks.0.attn2.to_k", "up_blocks.0.resnets.2.conv_shortcut",
    ):  # fmt: skip
        original = unet.to_original(name, attention_below=deep)
        assert original is not None
        assert unet.is_original(original)
        assert unet.to_diffusers(original) == name


FILES: dict[str, tuple[str, dict[str, Tensor]]] = {
    "kohya": (
        "kohya",
        {
            **{f"lora_unet_down_blocks_0_attentions_0_proj_in.{p}": t.half() for p, t in {
                "lora_down.weight": R(4, 8), "lora_up.weight": R(16, 4), "alpha": torch.tensor(0.1)}.items()},
            **{f"lora_te_text_model_encoder_layers_0_mlp_fc1.{p}": t.half() for p, t in {
                "lora_down.weight": R(2, 8), "lora_up.weight": R(8, 2), "alpha": torch.tensor(2.0),
                "dora_scale": R(8, 1)}.items()},
            "lora_unet_conv_norm_out.w_norm": R(8).half(), "lora_unet_conv_norm_out.b_norm": R(8).half(),
        },
    ),
    "onetrainer": (
        "kohya",
        {f"lora_transformer_single_transformer_blocks_0_attn_to_k.{p}": t for p, t in {
            "lora_down.weight": R(4, 8), "lora_up.weight": R(8, 4), "alpha": torch.tensor(1.0),
            "dora_scale": R(1, 8)}.items()},
    ),
    "diffusers": (
        "diffusers",
        {f"unet.down_blocks.0.attentions.0.proj_in.lora_{x}.weight": R(*s) for x, s in (("A", (2, 8)), ("B", (8, 2)))},
    ),
    "old diffusers": (
        "diffusers",
        {
            **{f"unet.mid_block.attentions.0.proj_in.lora.{x}.weight": R(*s) for x, s in (
                ("down", (2, 8)), ("up", (8, 2)))},
        },
    ),
    "bare diffusers": (
        "diffusers",
        {f"transformer_blocks.0.attn.to_q.{p}": t for p, t in {
            "lora_down.weight": R(4, 8), "lora_up.weight": R(8, 4), "alpha": torch.tensor(1.0)}.items()},
    ),
    "diffusers under PEFT's prefix": (
        "diffusers",
        {f"base_model.model.{name}.lora_{x}.weight": R(*s)
         for name in ("transformer_blocks.0.attn.to_q", "proj_out") for x, s in (("A", (2, 8)), ("B", (8, 2)))},
    ),
    "attention processors": (
        "attention-processors",
        {f"mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_{n}_lora.{x}.weight": R(*s)
         for n in ("q", "out") for x, s in (("down", (2, 8)), ("up", (8, 2)))},
    ),
    "comfyui": (
        "comfyui",
        {f"{name}.{p}": t
         for name in ("diffusion_model.double_blocks.0.img_attn.qkv", "text_encoders.clip_l.transformer.text_model.x")
         for p, t in {"lora_down.weight": R(4, 8), "lora_up.weight": R(24, 4), "alpha": torch.tensor(2.0)}.items()},
    ),
    "bfl": (
        "bfl",
        {
            **{f"single_blocks.0.linear1.lora_{x}": R(*s) for x, s in (
                ("A.weight", (2, 8)), ("B.weight", (56, 2)), ("B.bias", (56,)))},
            "single_blocks.0.norm.key_norm.scale": R(8),
        },
    ),
    "xlabs": (
        "xlabs",
        {f"{block}.processor.{n}.{x}.weight": R(*s)
         for block, n, out in (("double_blocks.0", "qkv_lora1", 24), ("single_blocks.1", "qkv_lora", 24))
         for x, s in (("down", (2, 8)), ("up", (out, 2)))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_lossless_file_gives_back_every_byte(kind: str, tmp_path: Path) -> None:
    dialect, tensors = FILES[kind]
    path = saved(tmp_path, tensors, {"ss_sd_model_name": "some-base", "ss_steps": "10"})
    before = hashlib.sha256(path.read_bytes()).hexdigest()

    packed = adaptzip.compress(path, tmp_path / "x.adz", lossless=True)
    report = adaptzip.export(tmp_path / "x.adz", tmp_path / "out")

    assert (packed.meta.dialect, report.dialect) == (dialect, dialect)
    assert packed.meta.base_model == "some-base"
    assert hashlib.sha256((report.path / report.files[0]).read_bytes()).hexdigest() == before


@pytest.mark.parametrize("kind", FILES)
def test_a_smaller_file_gives_back_its_keys_dtypes_and_metadata(kind: str, tmp_path: Path) -> None:
    _, tensors = FILES[kind]
    path = saved(tmp_path, tensors, {"ss_steps": "10"})

    adaptzip.compress(path, tmp_path / "x.adz", max_error=0.5)
    report = adaptzip.export(tmp_path / "x.adz", tmp_path / "out")

    with safe_open(report.path / report.files[0], "pt") as found:
        keys = set(found.keys())
        assert keys == set(tensors)
        assert {found.get_tensor(key).dtype for key in keys} == {t.dtype for t in tensors.values()}
        assert found.metadata()["ss_steps"] == "10"


def test_a_single_models_adapter_has_diffusers_names_where_they_are_known(tmp_path: Path) -> None:
    for path, name in (
        ("double_blocks.0.img_attn.proj", "transformer_blocks.0.attn.to_out.0"),
        ("middle_block.1.proj_in", "mid_block.attentions.0.proj_in"),
        ("blocks.0.mlp.layer1", "transformer_blocks.0.ff.net.0.proj"),
        ("some.layer", "some.layer"),
    ):
        report = adaptzip.export(of([f"diffusion_model.{path}"], "comfyui"), tmp_path / name, as_="peft")
        assert list(adaptzip.read(report.path).modules) == [name]


def test_a_unet_of_stable_diffusion_1_has_diffusers_names_in_kohyas_files(tmp_path: Path) -> None:
    for path, name in (
        ("input_blocks.1.1.transformer_blocks.0.attn1.to_q", "unet.down_blocks.0.attentions.0.transformer_blocks.0."),
        ("input_blocks.4.1.transformer_blocks.1.attn1.to_q", "diffusion_model.input_blocks.4.1."),
    ):
        report = adaptzip.export(of([f"diffusion_model.{path}"], "comfyui"), tmp_path / path, as_="kohya")
        (found,) = adaptzip.read(report.path).modules
        assert found.startswith(name)


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("layers.0.attention.to_q", "transformer"),
        ("blocks.0.attn2.to_out.0", "transformer"),
        ("double_blocks.0.img_attn.qkv", "diffusion_model"),
        ("output_blocks.3.1.proj_in", "diffusion_model"),
        ("text_model.encoder.layers.0.mlp.fc1", "text_encoder"),
    ],
)
def test_a_single_model_is_told_by_its_names(name: str, component: str, tmp_path: Path) -> None:
    report = adaptzip.export(of([name], "peft"), tmp_path / "out", as_="comfyui" if "_blocks" in name else "diffusers")
    assert list(adaptzip.read(report.path).modules) == [f"{component}.{name}"]


@pytest.mark.parametrize(
    ("denoiser", "prefix"),
    [
        ("unet.down_blocks.0.attentions.0.proj_in", "lora_te_"),
        ("diffusion_model.double_blocks.0.img_attn.proj", "lora_te1_"),
    ],
)
def test_the_text_encoder_of_stable_diffusion_1_alone_has_no_number(denoiser: str, prefix: str, tmp_path: Path) -> None:
    adapter = of([denoiser, "text_encoder.text_model.encoder.layers.0.mlp.fc1"], "comfyui")
    report = adaptzip.export(adapter, tmp_path / "out", as_="kohya")
    with safe_open(report.path / report.files[0], "pt") as file:
        assert {key for key in file.keys() if "_te" in key} == {  # noqa: SIM118
            f"{prefix}text_model_encoder_layers_0_mlp_fc1.{part}"
            for part in ("lora_down.weight", "lora_up.weight", "alpha")
        }


@pytest.mark.parametrize(
    ("dialect", "begin"),
    [("kohya", "lora_te_text_model_"), ("comfyui", "text_encoders.clip_l.transformer.text_model.")],
)
def test_a_clip_of_transformers_5_is_called_as_trainers_know_it(dialect: str, begin: str, tmp_path: Path) -> None:
    given = of(["text_encoder.encoder.layers.0.self_attn.q_proj"], "diffusers")
    report = adaptzip.export(given, tmp_path / "out", as_=dialect)
    with safe_open(report.path / report.files[0], "pt") as file:
        assert all(key.startswith(begin) for key in file.keys())  # noqa: SIM118


def test_names_that_begin_as_wans_are_not_taken_for_its(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="not told by its bare names"):
        adaptzip.export(of(["diffusion_model.blocks.0.cross_attn.k_proj"], "comfyui"), tmp_path / "out", as_="bfl")


@pytest.mark.parametrize("kind", ["bare diffusers", "diffusers under PEFT's prefix"])
def test_a_file_that_diffusers_does_not_load_is_spelled_as_it_does_where_it_is_named(kind: str, tmp_path: Path) -> None:
    path = saved(tmp_path, FILES[kind][1])
    for given in (path, tmp_path / "x.adz"):
        adaptzip.compress(path, tmp_path / "x.adz", lossless=True, force=True)
        report = adaptzip.export(given, tmp_path / "out", as_="diffusers", force=True)
        with safe_open(report.path / report.files[0], "pt") as file:
            names = {key.partition(".lora_") for key in file.keys()}  # noqa: SIM118
        assert {name for name, _, _ in names} == set(adaptzip.read(path).modules)
        assert {part for _, _, part in names} == {"A.weight", "B.weight"}
        (wanted, *_), (found, *_) = (adaptzip.read(source).modules.values() for source in (path, report.path))
        assert torch.allclose(found.delta(), wanted.delta(), rtol=1e-6)


def test_a_model_of_no_pipeline_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="is of no component of an image pipeline .* and no base model is named"):
        adaptzip.export(of(["model.layers.0.self_attn.q_proj"], "peft"), tmp_path / "out", as_="kohya")


def test_one_alpha_is_written_and_the_rest_of_the_scale_is_in_up(tmp_path: Path) -> None:
    names = {f"unet.mid_block.attentions.{i}.proj_in": s for i, s in enumerate((0.5, 0.5, 0.75, 1.0))}
    adapter = adaptzip.Adapter(
        {name: adaptzip.LoraFactors(R(2 + i % 2, 8), R(8, 2 + i % 2), s) for i, (name, s) in enumerate(names.items())},
        meta=Meta("diffusers"),
    )
    report = adaptzip.export(adapter, tmp_path / "out", as_="kohya")

    with safe_open(report.path / report.files[0], "pt") as found:
        assert len({float(found.get_tensor(key)) for key in found.keys() if key.endswith(".alpha")}) == 1  # noqa: SIM118
    back = adaptzip.read(report.path / report.files[0])
    for name, factors in adapter.modules.items():
        assert torch.allclose(back.modules[name].delta(), factors.delta(), rtol=1e-5, atol=1e-6)


X = {"lora_unet_x.lora_down.weight": R(2, 4), "lora_unet_x.lora_up.weight": R(4, 2)}
REFUSALS: dict[str, tuple[dict[str, Tensor], type[AdaptzipError], str]] = {
    "no up": ({"lora_unet_x.lora_down.weight": R(2, 4)}, CheckpointError, "but no lora_up.weight"),
    "ranks": (X | {"lora_unet_x.lora_up.weight": R(4, 3)}, CheckpointError, "up [4, 3]"),
    "two updates": (X | {"lora_unet_x.lokr_w1": R(2, 2)}, CheckpointError, "the parts of one update"),
    "no number": (X | {"lora_unet_x.alpha": torch.tensor(float("nan"))}, CheckpointError, "expected one finite number"),
    "a stranger": (X | {"lora_unet_x.other": R(2)}, CheckpointError, "lora_unet_x.other has no meaning"),
    "a rotation": (X | {"lora_unet_y.oft_blocks": R(2, 2)}, RefusedError, "OFT"),
    "a product too large": (
        {"lora_unet_x.lokr_w1": R(200, 200), "lora_unet_x.lokr_w2": R(100, 100)}, RefusedError, "plain factors",
    ),
    "an alpha alone": (X | {"lora_unet_y.alpha": ALPHA}, CheckpointError, "lora_unet_y.alpha"),
    "layers of another UNet": (
        {f"unet:{n}:{part}": R(*s) for n in range(3) for part, s in (("up", (4, 2)), ("down", (2, 4)))},
        RefusedError, "3 layers of unet",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_at_fault_is_named(name: str, tmp_path: Path) -> None:
    tensors, kind, said = REFUSALS[name]
    path = saved(tmp_path, tensors)

    with pytest.raises(kind) as caught:
        adaptzip.read(path)

    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_vectors_of_new_tokens_are_kept(tmp_path: Path) -> None:
    tensors = {f"text_encoder:{n}:{part}": R(*s) for n in range(4) for part, s in (("up", (4, 2)), ("down", (2, 4)))}
    found = adaptzip.read(saved(tmp_path, tensors | {"<s1>": torch.ones(4)}))

    assert sorted(found.modules)[0] == "text_encoder.text_model.encoder.layers.0.self_attn.k_proj"
    (key,) = found.extras
    assert key.endswith("token_embedding.<s1>")
    with pytest.raises(RefusedError, match="a kohya LoRA cannot hold"):
        adaptzip.export(found, tmp_path / "out")


def test_an_old_list_of_factors_is_read(tmp_path: Path) -> None:
    factors = [R(*shape) for _ in range(8) for shape in ((4, 2), (2, 4))]
    torch.save(factors, tmp_path / "lora_weight.text_encoder.pt")

    found = adaptzip.read(tmp_path / "lora_weight.text_encoder.pt")

    assert len(found.modules) == 8
    first = found.modules["text_encoder.text_model.encoder.layers.0.self_attn.k_proj"]
    assert torch.equal(first.B, factors[0])
    assert torch.equal(first.A, factors[1])


def test_scales_in_the_metadata_count_by_component(tmp_path: Path) -> None:
    name = "mid_block.attentions.0.proj_in"
    tensors = {f"unet.{name}.lora_{x}.weight": R(*s) for x, s in (("A", (2, 8)), ("B", (8, 2)))}
    told = {"unet.r": 2, "unet.lora_alpha": 3, "unet.alpha_pattern": {}, "unet.rank_pattern": {}}

    found = adaptzip.read(saved(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(told)}))

    assert found.modules[f"unet.{name}"].scaling == 1.5


def test_a_pipelines_adapter_is_no_single_models(tmp_path: Path) -> None:
    names = ("unet.mid_block.attentions.0.proj_in", "text_encoder.text_model.encoder.layers.0.mlp.fc1")
    both = adaptzip.Adapter({n: adaptzip.LoraFactors(R(2, 8), R(8, 2)) for n in sorted(names)}, meta=Meta("kohya"))

    with pytest.raises(RefusedError, match="several models, text_encoder, unet"):
        adaptzip.export(both, tmp_path / "out", as_="peft")

    alone = adaptzip.Adapter({names[0]: both.modules[names[0]]}, meta=both.meta)
    report = adaptzip.export(alone, tmp_path / "peft", as_="peft")
    assert list(adaptzip.read(report.path).modules) == [names[0].removeprefix("unet.")]


def test_inspect_tells_where_a_file_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = {
        "ss_network_module": "networks.lora",
        "ss_output_name": "anime",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "ss_sd_model_name": "base.safetensors",
    }
    path = saved(tmp_path, FILES["kohya"][1], told)

    assert main(["inspect", "--no-costs", str(path)]) == 0

    shown = capsys.readouterr().out
    for what in ("kohya", "networks.lora", "anime", "stable-diffusion-v1/lora", "base.safetensors"):
        assert what in shown


def of(names: Iterable[str], dialect: str, width: int = 8, **more: object) -> adaptzip.Adapter:
    """Square updates of rank 2 with these names."""
    modules = {name: adaptzip.LoraFactors(R(2, width), R(width, 2), **more) for name in sorted(names)}  # type: ignore[arg-type]
    return adaptzip.Adapter(modules, meta=Meta(dialect))


BLOCK = "transformer_blocks.0"


def test_two_denoisers_are_not_made_one(tmp_path: Path) -> None:
    both = of([f"{part}.blocks.0.attn1.to_q" for part in ("transformer", "transformer_2")], "diffusers")
    with pytest.raises(RefusedError, match="several denoisers, transformer, transformer_2"):
        adaptzip.export(both, tmp_path / "out", as_="kohya")


@pytest.mark.parametrize("shape", [(8,), (1, 8)])
def test_a_square_layers_magnitude_keeps_its_side(shape: tuple[int, ...], tmp_path: Path) -> None:
    magnitude = torch.arange(1.0, 9.0).reshape(shape)
    given = of(["unet.mid_block.attentions.0.proj_in"], "attention-processors", magnitude=magnitude)
    for dialect in ("kohya", "comfyui"):
        report = adaptzip.export(given, tmp_path / dialect, as_=dialect)
        with safe_open(report.path / report.files[0], "pt") as file:
            (key,) = [key for key in file.keys() if key.endswith("dora_scale")]  # noqa: SIM118
            assert file.get_tensor(key).shape == ((8, 1) if shape == (8,) else (1, 8))
        (back,) = adaptzip.read(report.path / report.files[0]).modules.values()
        assert back.magnitude is not None
        assert torch.equal(back.magnitude, magnitude)


def test_names_that_several_models_have_are_not_guessed(tmp_path: Path) -> None:
    attention = of([f"transformer.{BLOCK}.attn.to_q"], "diffusers")
    with pytest.raises(RefusedError, match="may be of Flux, Stable Diffusion 3, .* or Qwen-Image"):
        adaptzip.export(attention, tmp_path / "out", as_="comfyui")
    for width, first in ((3072, "double_blocks"), (1536, "joint_blocks")):
        told = of([f"transformer.{BLOCK}.attn.to_q", f"transformer.{BLOCK}.ff_context.net.0.proj"], "diffusers", width)
        report = adaptzip.export(told, tmp_path / first, as_="comfyui")
        names = adaptzip.read(report.path / report.files[0]).modules
        assert all(name.startswith(f"diffusion_model.{first}.0.") for name in names)


def test_a_bias_stays_where_its_update_is_zero() -> None:
    B = torch.cat([R(8, 2), torch.zeros(8, 2), R(8, 2)])
    factors = adaptzip.LoraFactors(R(2, 8), B, bias=torch.ones(24))
    found = to_diffusers({"diffusion_model.double_blocks.0.img_attn.qkv": factors})
    assert found[f"transformer.{BLOCK}.attn.to_k"].bias is not None


def test_parts_of_several_dtypes_are_fused_in_the_widest() -> None:
    names = [f"transformer.single_transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k")]
    parts = {
        names[0]: adaptzip.LoraFactors(R(2, 8).half(), R(8, 2).half()),
        names[1]: adaptzip.LoraFactors(R(2, 8), R(8, 2)),
    }
    delta = to_original(parts)["diffusion_model.single_blocks.0.linear1"].delta()
    assert torch.allclose(delta[8:16], parts[names[1]].delta(), atol=1e-6)


def test_alpha_on_the_command_line_makes_a_bare_file_pefts(tmp_path: Path) -> None:
    tensors = {f"base_model.model.down_blocks.0.proj.lora_{x}.weight": R(*s) for x, s in (("A", (2, 8)), ("B", (8, 2)))}
    path = saved(tmp_path, tensors)
    assert adaptzip.read(path).modules["unet.down_blocks.0.proj"].scaling == 1.0
    assert adaptzip.read(path, alpha=8).modules["down_blocks.0.proj"].scaling == 4.0


def test_fluxs_second_text_encoder_has_two_numbers(tmp_path: Path) -> None:
    shapes = {"lora_down.weight": (2, 8), "lora_up.weight": (8, 2)}
    stems = ("lora_unet_double_blocks_0_img_attn_proj", "lora_te3_encoder_block_0_layer_0_SelfAttention_k")
    found = adaptzip.read(saved(tmp_path, {f"{s}.{part}": R(*shape) for s in stems for part, shape in shapes.items()}))
    assert "text_encoder_2.encoder.block.0.layer.0.SelfAttention.k" in found.modules
    report = adaptzip.export(found, tmp_path / "out")
    with safe_open(report.path / report.files[0], "pt") as file:
        assert any(key.startswith(stems[1]) for key in file.keys())  # noqa: SIM118


@pytest.mark.parametrize(
    ("dialect", "said"), [("mlx", "is for language models"), ("bfl", "not told by its bare names")]
)
def test_what_a_dialect_is_not_for_is_refused(dialect: str, said: str, tmp_path: Path) -> None:
    given = of([f"transformer.{BLOCK}.img_mlp.net.0.proj"], "diffusers")
    with pytest.raises(RefusedError, match=said):
        adaptzip.export(given, tmp_path / "out", as_=dialect)
    assert not (tmp_path / "out").exists()


def test_a_scale_in_the_metadata_comes_back_as_it_was(tmp_path: Path) -> None:
    name = "unet.mid_block.attentions.0.proj_in"
    tensors = {f"{name}.lora_{x}.weight": R(*s) for x, s in (("A", (2, 8)), ("B", (8, 2)))}
    told = {"unet.r": 2, "unet.lora_alpha": 3}
    path = saved(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(told)})
    wanted = adaptzip.read(path).modules[name].delta()

    adaptzip.compress(path, tmp_path / "x.adz", lossless=True)
    same = adaptzip.export(tmp_path / "x.adz", tmp_path / "same.safetensors")
    adaptzip.compress(path, tmp_path / "y.adz", max_error=0.01)
    near = adaptzip.export(tmp_path / "y.adz", tmp_path / "near")

    assert same.path.read_bytes() == path.read_bytes()
    found = adaptzip.read(near.path).modules[name].delta()
    assert (found - wanted).norm() <= 0.011 * wanted.norm()


def test_an_alpha_that_scales_nothing_is_kept(tmp_path: Path) -> None:
    stem = "lora_unet_mid_block_attentions_0_norm"
    tensors = X | {f"{stem}.diff_b": R(4), f"{stem}.alpha": torch.tensor(2.0)}
    path = saved(tmp_path, tensors)
    adaptzip.compress(path, tmp_path / "x.adz", max_error=0.5)
    report = adaptzip.export(tmp_path / "x.adz", tmp_path / "out.safetensors")
    with safe_open(report.path, "pt") as file:
        assert file.get_tensor(f"{stem}.alpha") == 2.0


def test_products_that_grow_are_warned_of_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, {"lora_unet_x.lokr_w1": R(32, 32), "lora_unet_x.lokr_w2": R(32, 32)})
    with pytest.warns(AdaptzipWarning, match="keep the file, which is smaller"):
        adaptzip.read(path)
    assert main(["inspect", "--no-costs", str(path)]) == 0
    assert "1 LoKr" in capsys.readouterr().out


def test_metadata_beyond_what_a_file_holds_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, X, {"ss_tag_frequency": "x" * (17 * 2**20)})
    with pytest.raises(RefusedError, match="configuration and metadata have"):
        adaptzip.compress(path, tmp_path / "x.adz", lossless=True)
    assert not (tmp_path / "x.adz").exists()
