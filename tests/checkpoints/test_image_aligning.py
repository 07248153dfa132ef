"""Adapters of one image model are compared whatever their files call its layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import adaptzip
from adaptzip.checkpoints._image.aligning import aligned
from adaptzip.checkpoints._image.families import FAMILIES
from adaptzip.cli.app import main
from adaptzip.core.comparing import diff
from adaptzip.core.meta import Meta
from tests.checkpoints.test_image_dialects import of, of_family

SDXL = of(
    (f"unet.down_blocks.1.attentions.0.transformer_blocks.{n}.attn1.to_q" for n in (0, 1)), "diffusers"
)  # fmt: skip


@pytest.mark.parametrize("dialect", ["kohya", "comfyui", "bfl"])
def test_both_spellings_of_a_model_are_one(dialect: str, tmp_path: Path) -> None:
    flux = adaptzip.Adapter(of_family(FAMILIES[0]), meta=Meta("bfl"))
    found = [adaptzip.export(flux, tmp_path / name, as_=name) for name in ("diffusers", dialect)]

    first, second = aligned(*(adaptzip.read(each.path) for each in found))
    report = diff(first, second)

    assert len(report.modules) == sum(len(rule.diffusers) for rule in FAMILIES[0].rules)
    assert not report.only_in_a
    assert not report.only_in_b
    assert report.relative_error is not None
    assert report.relative_error < 1e-6


def test_a_change_of_a_fused_layer_is_told_by_its_part(tmp_path: Path) -> None:
    modules = of_family(FAMILIES[0])
    name = "diffusion_model.double_blocks.3.img_attn.qkv"
    B = modules[name].B.clone()
    B[-1] += 1
    changed = {**modules, name: replace(modules[name], B=B)}
    adaptzip.export(adaptzip.Adapter(modules, meta=Meta("bfl")), tmp_path / "a", as_="diffusers")
    adaptzip.export(adaptzip.Adapter(changed, meta=Meta("bfl")), tmp_path / "b", as_="kohya")

    first, second = aligned(adaptzip.read(tmp_path / "a"), adaptzip.read(tmp_path / "b"))
    report = diff(first, second)

    (apart,) = [module.name for module in report.modules if (module.relative_error or 0) > 1e-3]
    assert apart == "transformer.transformer_blocks.3.attn.to_v"


def test_a_unet_is_compared_with_its_original_and_with_pefts(tmp_path: Path) -> None:
    paths = [adaptzip.export(SDXL, tmp_path / name, as_=name).path for name in ("diffusers", "kohya", "peft")]
    assert "diffusion_model" in {name.partition(".")[0] for name in adaptzip.read(paths[1]).modules}
    for other in paths[1:]:
        assert main(["diff", "--quiet", "--max-error", "1e-6", str(paths[0]), str(other)]) == 0


def test_the_same_names_stay(tmp_path: Path) -> None:
    unknown = of(["diffusion_model.some.layer"], "comfyui")
    ours, theirs = aligned(unknown, unknown)
    assert ours is unknown
    assert theirs is unknown
    assert list(aligned(unknown, SDXL)[0].modules) == list(unknown.modules)


def test_nothing_in_common_is_no_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adaptzip.export(SDXL, tmp_path / "a", as_="kohya")
    adaptzip.export(of(["text_encoder.text_model.encoder.layers.0.mlp.fc1"], "kohya"), tmp_path / "b", as_="kohya")

    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 1

    shown = capsys.readouterr()
    assert "only in the second" in shown.out
    assert "has none of the modules of" in shown.err


def test_a_module_that_was_not_updated_is_apart(tmp_path: Path) -> None:
    fewer = replace(SDXL, modules=dict(list(SDXL.modules.items())[:1]))
    adaptzip.export(SDXL, tmp_path / "a", as_="kohya")
    adaptzip.export(fewer, tmp_path / "b", as_="diffusers")
    first, second = aligned(adaptzip.read(tmp_path / "a"), adaptzip.read(tmp_path / "b"))
    report = diff(first, second)
    assert [module.name for module in report.only_in_a] == [list(SDXL.modules)[1]]


@pytest.mark.parametrize("dialect", ["kohya", "comfyui"])
def test_names_of_a_clip_in_transformers_5_are_those_of_4(dialect: str, tmp_path: Path) -> None:
    given = of(["text_encoder.encoder.layers.0.self_attn.q_proj"], "diffusers")
    paths = [adaptzip.export(given, tmp_path / name, as_=name).path for name in ("diffusers", dialect)]
    for a, b in (paths, paths[::-1]):
        first, second = aligned(adaptzip.read(a), adaptzip.read(b))
        report = diff(first, second)
        (module,) = report.modules
        assert module.name == "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
        assert not report.only_in_a


def test_a_clip_by_itself_is_compared_in_both_names() -> None:
    old, new = (of([f"{begin}encoder.layers.1.mlp.fc1"], "peft") for begin in ("text_model.", ""))
    new = replace(new, modules=dict(zip(new.modules, old.modules.values(), strict=True)))
    first, second = aligned(new, old)
    report = diff(first, second)
    assert [module.name for module in report.modules] == list(old.modules)
    assert report.relative_error == 0.0
    assert list(aligned(new, new)[0].modules) == list(new.modules)


def test_the_second_denoiser_is_not_compared_with_the_first(tmp_path: Path) -> None:
    adaptzip.export(of(["transformer_2.blocks.0.attn1.to_q"], "diffusers"), tmp_path / "a", as_="diffusers")
    adaptzip.export(of(["diffusion_model.blocks.0.self_attn.q"], "comfyui"), tmp_path / "b", as_="comfyui")
    assert main(["diff", "--quiet", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
