"""Adapters extracted from two checkpoints: merged into the base again, they give the tuned model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

import adaptzip
from adaptzip.errors import AdaptzipWarning, CheckFailedError, UsageError
from adaptzip.restoring.extracting import extraction
from tests.cases.base_folders import write_index, write_weights
from tests.cases.live_models import bart, bert, distance, gemma3, llama, logits, logits_of, t5
from tests.cases.tuned_models import (
    gpt2,
    gpt_oss,
    granite_moe,
    largest_difference,
    llama4,
    mixtral,
    tensors_of,
    tune,
    write_pair,
)  # fmt: skip

LAYER = "model.layers.0.self_attn"
shared = pytest.mark.filterwarnings("ignore:the embedding shares its weight")


def untied() -> tf.PreTrainedModel:
    return llama(tie_word_embeddings=False)


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def merged(adapter: adaptzip.Adapter | Path, base: Path) -> Path:
    return adaptzip.merge(adapter, base, base.parent / "merged", force=True).path


@shared
@pytest.mark.parametrize("make", [llama, untied, t5, bart, bert, gemma3, gpt2, mixtral, granite_moe, gpt_oss, llama4])
def test_at_full_rank_merging_gives_the_tuned_model(make: Callable[[], Any], tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, make)
    adapter = adaptzip.extract(base, tuned, rank="full")
    folder = adaptzip.export(adapter, tmp_path / "adapter").path
    assert largest_difference(merged(folder, base), tuned) < 1e-6
    assert not any(name.endswith(".weight") for name in adapter.modules)
    matrices = {name for name, tensor in tensors_of(tuned).items() if tensor.ndim == 2 and name.endswith(".weight")}
    assert len(adapter.modules) >= len(matrices)


def test_peft_computes_what_the_tuned_model_does(tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, untied)
    adaptzip.export(adaptzip.extract(base, tuned, rank="full"), tmp_path / "adapter")
    live = PeftModel.from_pretrained(tf.AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    assert distance(logits(live), logits_of(tuned)) < 1e-5


def test_a_whole_embedding_is_right_in_a_tied_model_that_is_not_merged(tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, llama)
    with pytest.warns(AdaptzipWarning, match=r"shares its weight with lm_head.weight: .*`embeddings='whole'`"):
        assert "model.embed_tokens" in adaptzip.extract(base, tuned, rank=2).modules
    adapter = adaptzip.extract(base, tuned, rank="full", embeddings="whole")
    assert "base_model.model.model.embed_tokens.weight" in adapter.extras
    adaptzip.export(adapter, tmp_path / "adapter")
    live = PeftModel.from_pretrained(tf.AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    assert distance(logits(live), logits_of(tuned)) < 1e-5
    assert largest_difference(merged(tmp_path / "adapter", base), tuned) < 1e-6


def test_the_error_is_an_exact_svds_and_holds_once_merged(tmp_path: Path) -> None:
    """The large matrix of falling values comes from a Krylov space, the small one from an SVD."""
    falling = noise(100, 100) / torch.arange(1, 101) @ noise(100, 120, seed=1)
    before = {f"{LAYER}.q_proj.weight": noise(100, 120), f"{LAYER}.k_proj.weight": noise(9, 20)}
    changes = {f"{LAYER}.q_proj.weight": falling, f"{LAYER}.k_proj.weight": noise(9, 20, seed=2)}
    base, tuned = write_pair(tmp_path, before, {name: before[name] + change for name, change in changes.items()})
    found = extraction(base, tuned, rank=4)
    energies = [torch.linalg.svdvals(change.double()).square() for change in changes.values()]
    best = math.sqrt(sum(float(e[4:].sum()) for e in energies) / sum(float(e.sum()) for e in energies))
    assert found.approximate == 1
    assert found.error == pytest.approx(best, rel=1e-4)
    again, after = tensors_of(merged(found.adapter, base)), tensors_of(tuned)
    left = sum(float((again[name] - after[name]).double().square().sum()) for name in after)
    assert math.sqrt(left / sum(float(e.sum()) for e in energies)) == pytest.approx(found.error, rel=1e-5)


@shared
@pytest.mark.parametrize("max_error", [0.05, 0.4])
def test_ranks_are_chosen_for_all_modules_together(max_error: float, tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, lambda: llama(hidden_size=32))
    adapter = adaptzip.extract(base, tuned, max_error=max_error)
    before, after = tensors_of(base), tensors_of(tuned)
    lost = total = 0.0
    spectra = []
    for name, factors in adapter.modules.items():
        D = after[f"{name}.weight"] - before[f"{name}.weight"]
        lost += float((D - factors.weight_delta()).double().square().sum())
        total += float(D.double().square().sum())
        spectra.append(torch.linalg.svdvals(D.double()).square())
    assert math.sqrt(lost / total) <= max_error
    falling = torch.cat(spectra).sort().values.cumsum(0)
    fewest = int((falling > max_error**2 * total).sum())
    assert fewest <= sum(f.rank for f in adapter.modules.values()) <= 1.05 * fewest + 1


def test_limits_that_cannot_hold_or_mean_nothing(tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, untied)
    with pytest.raises(CheckFailedError, match=r"the relative error is 0\.\d+, more than the 0.1 that were asked for"):
        adaptzip.extract(base, tuned, rank=1, max_error=0.1)
    with pytest.raises(UsageError, match="a rank of 0"):
        adaptzip.extract(base, tuned, rank=0)
    with pytest.raises(UsageError, match="a max_error of 1"):
        adaptzip.extract(base, tuned, max_error=1)
    with pytest.raises(UsageError, match="no dtype 'int8'"):
        adaptzip.extract(base, tuned, dtype="int8")  # type: ignore[arg-type]
    with pytest.raises(CheckFailedError, match="is the same model as"):
        adaptzip.extract(base, base)


@pytest.mark.parametrize("form", ["shards", "bin", "bin shards"])
def test_files_of_any_form_give_the_same(form: str, tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, untied)
    plain = adaptzip.extract(base, tuned, rank=3)
    for folder in (base, tuned):
        tensors = tensors_of(folder)
        (folder / "model.safetensors").unlink()
        end = ".bin" if "bin" in form else ".safetensors"
        stem = "pytorch_model" if "bin" in form else "model"
        if "shards" in form:
            write_index(folder / f"{stem}{end}.index.json", tensors, f"a{end}", f"b{end}")
        else:
            write_weights(folder / f"{stem}{end}", tensors)
    again = adaptzip.extract(base, tuned, rank=3)
    assert plain.modules.keys() == again.modules.keys()
    assert all(torch.equal(again.modules[n].B, plain.modules[n].B) for n in plain.modules)
    assert all(torch.equal(again.extras[key], tensor) for key, tensor in plain.extras.items())


def test_bfloat16_comes_back(tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, lambda: untied().bfloat16())
    adapter = adaptzip.extract(base, tuned, rank="full")
    assert {factors.A.dtype for factors in adapter.modules.values()} == {torch.float32}
    again, after = tensors_of(merged(adapter, base)), tensors_of(tuned)
    assert all(torch.allclose(again[name], tensor, rtol=1e-2, atol=1e-7) for name, tensor in after.items())
    assert sum(int((again[name] != tensor).sum()) for name, tensor in after.items()) < 5


def test_what_differs_in_rounding_alone_is_the_same(tmp_path: Path) -> None:
    before = {f"{LAYER}.{leaf}.weight": noise(8, 8, seed=seed) for seed, leaf in enumerate(("q_proj", "k_proj"))}
    before["model.norm.weight"] = noise(8)
    after = {name: tensor.bfloat16() for name, tensor in before.items()}
    after[f"{LAYER}.k_proj.weight"] += 1
    base, tuned = write_pair(tmp_path, before, after)
    with pytest.warns(AdaptzipWarning, match="is bfloat16, the base's is float32: rounding is part"):
        found = extraction(base, tuned)
    assert (list(found.adapter.modules), dict(found.adapter.extras)) == ([f"{LAYER}.k_proj"], {})
    assert found.unchanged == 2


def test_convolutions_of_a_unet(tmp_path: Path) -> None:
    """Kernels of 3x3, of 1x1, and of one channel each, which no LoRA of PEFT's can be on."""
    shapes = {
        "conv_in": (8, 4, 3, 3),
        "down_blocks.0.conv_shortcut": (6, 8, 1, 1),
        "down_blocks.0.depthwise": (6, 1, 3, 3),
    }
    before = {f"{name}.weight": noise(*shape) for name, shape in shapes.items()} | {"conv_in.bias": noise(8)}
    after = {name: tensor + noise(*tensor.shape, seed=1) for name, tensor in before.items()}
    base, tuned = write_pair(tmp_path, before, after, '{"_class_name": "UNet2DConditionModel"}')
    adapter = adaptzip.extract(base, tuned, rank="full")
    assert {name: (m.layout, m.kernel, m.shape) for name, m in adapter.modules.items()} == {
        "conv_in": ("conv", (3, 3), (8, 36)),
        "down_blocks.0.conv_shortcut": ("conv", (1, 1), (6, 8)),
    }
    assert set(adapter.extras) == {
        "base_model.model.conv_in.base_layer.bias", "base_model.model.down_blocks.0.depthwise.weight",
    }  # fmt: skip
    assert largest_difference(merged(adapter, base), tuned) < 1e-5


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_a_component_that_is_named_is_written_for_image_programs(dialect: str, tmp_path: Path) -> None:
    name = "down_blocks.0.resnets.0.conv1"
    before = {f"{name}.weight": noise(8, 8, 3, 3)}
    after = {f"{name}.weight": noise(8, 8, 3, 3, seed=1)}
    base, tuned = write_pair(tmp_path, before, after, '{"_class_name": "UNet2DConditionModel"}')
    adapter = adaptzip.extract(base, tuned, rank="full", base_name="some/unet")
    adaptzip.export(adapter, tmp_path / "style.safetensors", as_=dialect)
    (factors,) = adaptzip.read(tmp_path / "style.safetensors").modules.values()
    assert torch.allclose(factors.weight_delta(), after[f"{name}.weight"] - before[f"{name}.weight"], atol=1e-4)


def test_progress_ends_with_all(tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, untied)
    told: list[tuple[str, float]] = []
    adaptzip.extract(base, tuned, rank=1, progress=lambda phase, done, total: told.append((phase, done / total)))
    assert {phase for phase, _ in told} == {"extracting"}
    assert [share for _, share in told] == sorted(share for _, share in told)
    assert told[-1][1] == 1.0


def test_stopping_stops(tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, untied)

    def stop(phase: str, done: float, total: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adaptzip.extract(base, tuned, progress=stop)


def test_numbers_that_are_none_are_named(tmp_path: Path) -> None:
    base, tuned = tune(tmp_path, untied)
    tensors = tensors_of(tuned)
    tensors[f"{LAYER}.q_proj.weight"][3, 2] = math.nan
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    for pair, where in ((base, tuned), tuned), ((tuned, base), tuned):
        with pytest.raises(adaptzip.AdaptzipError, match=rf"{where}: {LAYER}.q_proj.weight holds NaN or infinity"):
            adaptzip.extract(*pair)
