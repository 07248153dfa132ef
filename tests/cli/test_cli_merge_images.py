"""`adaptzip merge` and `check` with bases of image models: pipelines, and files in original names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adaptzip.restoring.exporting import export
from tests.cases.image_bases import (
    CLIP,
    FLUX_FILE,
    FLUX_FOLDER,
    SD1_FILE,
    UNET_FOLDER,
    VAE,
    base_file,
    lora,
    modules,
    pipeline,
    stored,
    under,
)
from tests.cli.cli_cases import listing, refused, run

KEY = "model.diffusion_model.double_blocks.0.img_attn.qkv.weight"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A Flux file and pipeline, and two adapters in the names of diffusers and of the original."""
    base_file(tmp_path / "flux.safetensors", under("model.diffusion_model.", FLUX_FILE))
    pipeline(tmp_path / "base", {"transformer": FLUX_FOLDER, "text_encoder": CLIP, "vae": VAE})
    export(lora(modules("transformer", FLUX_FOLDER)), tmp_path / "one", as_="diffusers")
    export(lora(modules("transformer", FLUX_FOLDER), seed=5), tmp_path / "two", as_="comfyui")
    return tmp_path


def test_several_into_a_file(work: Path) -> None:
    out, base = work / "merged.safetensors", work / "flux.safetensors"
    words = ("merge", f"{work / 'one'}:0.5", work / "two", "--base", base, "-o", out)
    assert run(*words).code == 0
    together = load_file(out)[KEY]

    assert run("merge", work / "one", "--base", base, "-o", work / "1.safetensors", "--scale", "0.5").code == 0
    assert run("merge", work / "two", "--base", work / "1.safetensors", "-o", work / "2.safetensors").code == 0

    assert torch.allclose(together, load_file(work / "2.safetensors")[KEY], atol=1e-5)
    checked = run("check", out, "--base", base, "--adapter", f"{work / 'one'}:0.5", "--adapter", work / "two", "--json")
    assert (checked.code, checked.json["verdict"]) == (0, "exact")


@pytest.mark.parametrize(("base", "out"), [("flux.safetensors", "merged.safetensors"), ("base", "merged")])
def test_added_taken_away_and_checked(base: str, out: str, work: Path) -> None:
    words = (work / "one", "--base", work / base)
    assert run("merge", *words, "-o", work / out).code == 0
    yes = run("check", work / out, "--base", work / base, "--adapter", work / "one")
    assert yes.code == 0
    assert yes.out.startswith("ok  bit for bit")
    other = run("check", work / out, "--base", work / base, "--adapter", work / "two")
    assert other.code == 1
    twice = run("check", work / out, "--base", work / base, "--adapter", work / "one", "--scale", "0.5", "--json")
    assert (twice.code, twice.json["explanation"]) == (1, "the adapter is merged twice")

    back = "back.safetensors" if out.endswith(".safetensors") else "back"
    again = ("merge", work / "one", "--base", work / out, "-o", work / back, "--subtract")
    assert run(*again).code == 0
    before, after = (
        load_file(work / name)[KEY] if name.endswith("s") else stored(work / name / "transformer")["x_embedder.weight"]
        for name in (base, back)
    )
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize(("base", "out"), [("flux.safetensors", "merged.safetensors"), ("base", "merged")])
def test_a_dry_run_says_the_same(base: str, out: str, work: Path) -> None:
    words = ("merge", work / "one", "--base", work / base, "-o", work / out, "--json")
    planned = run(*words, "--dry-run").json
    assert not (work / out).exists()
    done = run(*words).json
    same = ("path", "files", "modules", "extras", "tokenizer", "untied", "warnings")
    assert {key: planned[key] for key in same} == {key: done[key] for key in same}
    if out == "merged":
        assert done["files"] == sorted(listing(work / out))


def test_a_component_that_was_changed_in_a_pipeline(work: Path) -> None:
    assert run("merge", work / "one", "--base", work / "base", "-o", work / "merged").code == 0
    file = work / "merged" / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\x40")
    result = run("check", work / "merged", "--base", work / "base", "--adapter", work / "one", "--json")
    assert result.code == 1
    assert [row["name"] for row in result.json["tensors"] if row["verdict"] == "no"] == ["vae.decoder.conv_in.weight"]


def test_the_forms_of_both_models_are_the_same(work: Path) -> None:
    assert run("merge", work / "one", "--base", work / "base", "-o", work / "merged").code == 0
    words = ("check", work / "merged", "--base", work / "flux.safetensors", "--adapter", work / "one")
    refused(run(*words), 2, "is a pipeline, and the base model", "give both in the same form")


def test_a_folder_is_no_output_for_a_file(work: Path) -> None:
    result = run("merge", work / "one", "--base", work / "flux.safetensors", "-o", work / "merged")
    refused(result, 2, "expected the name of a .safetensors file", f"--output {work / 'merged.safetensors'}")


def test_another_family_is_named(work: Path) -> None:
    base_file(work / "sd1.safetensors", SD1_FILE)
    result = run("merge", work / "one", "--base", work / "sd1.safetensors", "-o", work / "out.safetensors")
    refused(result, 2, "the adapter looks like one of Flux, the base like Stable Diffusion 1")
    assert not (work / "out.safetensors").exists()


def test_names_without_dots_are_those_of_the_file(tmp_path: Path) -> None:
    """kohya's names have none, and the file tells where they are."""
    base = base_file(tmp_path / "sd1.safetensors", SD1_FILE)
    adapter = lora({**modules("unet", UNET_FOLDER), **modules("text_encoder", CLIP)})
    written = export(adapter, tmp_path / "lora", as_="kohya")

    result = run(
        "merge", tmp_path / "lora" / written.files[0], "--base", tmp_path / "sd1.safetensors",
        "-o", tmp_path / "merged.safetensors",
    )  # fmt: skip

    assert result.code == 0
    key = "model.diffusion_model.input_blocks.0.0.weight"
    delta = adapter.modules["unet.conv_in"].weight_delta()
    assert torch.allclose(load_file(tmp_path / "merged.safetensors")[key], base[key] + delta, atol=1e-5)
