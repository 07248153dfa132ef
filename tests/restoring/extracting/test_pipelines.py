"""Two pipelines give one adapter of all their components."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import adaptzip
from adaptzip.errors import AdaptzipWarning, BaseModelError, CheckFailedError
from adaptzip.restoring.extracting import extraction
from tests.cases.base_folders import write_weights

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
CONVOLUTION = "down_blocks.0.resnets.0.conv1.weight"
QUERY = "text_model.encoder.layers.0.self_attn.q_proj.weight"
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "unet": {ATTENTION: (12, 12), CONVOLUTION: (8, 4, 3, 3)},
    "text_encoder": {QUERY: (10, 10), "text_model.final_layer_norm.bias": (10,)},
    "vae": {"decoder.conv_in.weight": (4, 4, 3, 3)},
}
FILES = {"text_encoder": "model.safetensors"}


def pipeline(folder: Path, **changes: dict[str, Tensor]) -> Path:
    """A pipeline with random weights, the same each time but for some."""
    generator = torch.Generator().manual_seed(0)
    index: dict[str, object] = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "PNDMScheduler"]}
    for component, shapes in SHAPES.items():
        tensors = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
        for name, change in changes.get(component, {}).items():
            tensors[name] = tensors[name] + change
        (folder / component).mkdir(parents=True)
        write_weights(folder / component / FILES.get(component, "diffusion_pytorch_model.safetensors"), tensors)
        index[component] = ["diffusers", "Model"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def low_rank(*shape: int) -> Tensor:
    flat = torch.Size(shape[1:]).numel()
    return (torch.randn(shape[0], 2) @ torch.randn(2, flat)).reshape(shape)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return pipeline(tmp_path / "base")


def test_one_adapter_is_made_of_all_components(base: Path, tmp_path: Path) -> None:
    changes = {"unet": {ATTENTION: low_rank(12, 12)}, "text_encoder": {QUERY: low_rank(10, 10)}}
    tuned = pipeline(tmp_path / "tuned", **changes)
    told: list[float] = []
    found = extraction(
        base, tuned, rank=2, base_name="owner/sd", progress=lambda _, done, total: told.append(done / total)
    )
    modules = found.adapter.modules
    assert list(modules) == [f"text_encoder.{QUERY}"[:-7], f"unet.{ATTENTION}"[:-7]]
    for component, change in changes.items():
        for name, delta in change.items():
            assert torch.allclose(modules[f"{component}.{name}"[:-7]].delta(), delta, atol=1e-4)
    assert (found.error < 1e-5, found.unchanged, found.adapter.meta.dialect) == (True, 2, "diffusers")
    assert told == sorted(told)
    assert told[-1] == 1.0
    written = adaptzip.export(found.adapter, tmp_path / "lora.safetensors").path
    assert adaptzip.read(written).modules.keys() == modules.keys()


def test_a_component_that_is_the_same_gives_nothing(base: Path, tmp_path: Path) -> None:
    tuned = pipeline(tmp_path / "tuned", unet={CONVOLUTION: low_rank(8, 4, 3, 3)})
    modules = adaptzip.extract(base, tuned, rank=2).modules
    assert [(name, factors.kernel) for name, factors in modules.items()] == [(f"unet.{CONVOLUTION}"[:-7], (3, 3))]


def test_what_is_no_matrix_is_added_under_the_components_name(base: Path, tmp_path: Path) -> None:
    change = {"text_model.final_layer_norm.bias": torch.ones(10)}
    adapter = adaptzip.extract(base, pipeline(tmp_path / "tuned", text_encoder=change))
    ((key, tensor),) = adapter.extras.items()
    effect = adapter.resolved.extras[key]
    assert (effect.role, effect.tensor) == ("add", "text_encoder.text_model.final_layer_norm.bias")
    assert torch.allclose(tensor, torch.ones(10), atol=1e-6)


def test_what_only_the_tuned_pipeline_has_is_refused(base: Path, tmp_path: Path) -> None:
    tuned = pipeline(tmp_path / "tuned")
    file = tuned / "text_encoder" / FILES["text_encoder"]
    write_weights(file, load_file(file) | {"text_projection.weight": torch.ones(10, 10)})
    with pytest.raises(BaseModelError, match=r"base/text_encoder: lacks text_projection.weight \[10, 10\]"):
        adaptzip.extract(base, tuned)


def test_what_no_lora_changes_is_told(base: Path, tmp_path: Path) -> None:
    changes = {"vae": {"decoder.conv_in.weight": torch.ones(4, 4, 3, 3)}, "unet": {ATTENTION: low_rank(12, 12)}}
    with pytest.warns(AdaptzipWarning, match="tuned/vae: differs from the base's vae, which no LoRA changes"):
        adapter = adaptzip.extract(base, pipeline(tmp_path / "tuned", **changes))
    assert len(adapter.modules) == 1


def test_two_of_the_same_give_no_adapter(base: Path) -> None:
    with pytest.raises(CheckFailedError, match="is the same model as"):
        adaptzip.extract(base, base)


def test_a_pipeline_and_a_model_do_not_fit(base: Path) -> None:
    with pytest.raises(BaseModelError, match=r"base: is a pipeline of several models, and .*/unet is one model"):
        adaptzip.extract(base, base / "unet")


@pytest.mark.parametrize("missing", ["base", "tuned"])
def test_a_component_that_one_lacks_is_named(missing: str, base: Path, tmp_path: Path) -> None:
    pipeline(tmp_path / "tuned", unet={ATTENTION: low_rank(12, 12)})
    shutil.rmtree(tmp_path / missing / "text_encoder")
    with pytest.raises(BaseModelError, match=f"{missing}: lacks the component text_encoder"):
        adaptzip.extract(base, tmp_path / "tuned")
