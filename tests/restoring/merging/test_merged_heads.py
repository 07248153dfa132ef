"""Trained heads in merged models: under any key that they are saved by, whole or refused, and in the right class."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.checkpoints._effects import extra_effect
from adaptzip.errors import AdaptzipError, BaseModelError, CheckpointError
from adaptzip.fitting.compression import compress
from adaptzip.restoring.exporting import export
from adaptzip.restoring.merging import merge
from adaptzip.restoring.reading import read
from tests.cases.live_models import SIZES, Live, distance, llama, logits, logits_of, train

HEAD = "base_model.model.classifier"


def bert(**labels: Any) -> tf.PreTrainedModel:
    sizes = {"vocab_size": 32, "max_position_embeddings": 16}
    return tf.BertForSequenceClassification(tf.BertConfig(**{**SIZES, **sizes, **(labels or {"num_labels": 3})}))


def distilbert() -> tf.PreTrainedModel:
    sizes = {"vocab_size": 32, "dim": 16, "hidden_dim": 24, "n_layers": 1, "n_heads": 2, "num_labels": 3}
    return tf.DistilBertForSequenceClassification(tf.DistilBertConfig(**sizes))


@pytest.fixture
def trained(tmp_path: Path) -> Live:
    return train(tmp_path, bert, target_modules=["query"], task_type="SEQ_CLS")


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)


def with_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As `model.state_dict()` has a trained head: the copy, and the original beside it."""
    head = {key: tensor for key, tensor in tensors.items() if key.startswith(HEAD)}
    rest = {key: tensor for key, tensor in tensors.items() if key not in head}
    copies = {key.replace(HEAD, f"{HEAD}.modules_to_save.default"): tensor for key, tensor in head.items()}
    originals = {key.replace(HEAD, f"{HEAD}.original_module"): torch.zeros_like(t) for key, t in head.items()}
    return rest | copies | originals


def test_a_head_under_its_name_in_memory(trained: Live, tmp_path: Path) -> None:
    rewrite(trained.adapter, with_wrappers)
    report = merge(trained.adapter, trained.base, tmp_path / "merged")
    assert report.extras == 2
    assert report.warnings == ()
    assert distance(logits_of(tmp_path / "merged"), trained.logits) < 1e-6


def test_a_bare_language_model_gets_such_a_head(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    base = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=4)
    live = train(tmp_path / "x", lambda: base, target_modules=["q_proj"], task_type="SEQ_CLS")
    rewrite(live.adapter, lambda t: {k.replace("score.", "score.modules_to_save.default."): v for k, v in t.items()})
    merge(live.adapter, tmp_path / "base", tmp_path / "merged")
    merged = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    expected = load_file(live.adapter / "adapter_model.safetensors")
    assert torch.equal(merged.score.weight, expected["base_model.model.score.modules_to_save.default.weight"])


def test_exported_it_loads_in_peft(trained: Live, tmp_path: Path) -> None:
    rewrite(trained.adapter, with_wrappers)
    compress(trained.adapter, tmp_path / "a.adz", lossless=True)
    export(tmp_path / "a.adz", tmp_path / "out")
    live = PeftModel.from_pretrained(type(bert()).from_pretrained(trained.base), tmp_path / "out")
    assert distance(logits(live), trained.logits) < 1e-6


def refused(kind: type[AdaptzipError], match: str, trained: Live, output: Path) -> str:
    with pytest.raises(kind, match=match) as error:
        merge(trained.adapter, trained.base, output)
    assert "\n" not in str(error.value)
    assert error.value.hint
    assert not output.exists()
    return str(error.value)


def test_two_heads_that_mean_one(trained: Live, tmp_path: Path) -> None:
    both = {f"{HEAD}.modules_to_save.default.bias": torch.ones(3)}
    rewrite(trained.adapter, lambda tensors: tensors | both)
    refused(CheckpointError, "different tensors for classifier.bias", trained, tmp_path / "merged")
    with pytest.raises(CheckpointError, match="adapter_model.safetensors: .* different tensors for classifier.bias"):
        read(trained.adapter)
    same = load_file(trained.adapter / "adapter_model.safetensors")[f"{HEAD}.bias"]
    rewrite(trained.adapter, lambda tensors: tensors | {f"{HEAD}.modules_to_save.default.bias": same.clone()})
    merge(trained.adapter, trained.base, tmp_path / "merged")


def test_an_untrained_original_alone(trained: Live, tmp_path: Path) -> None:
    rewrite(trained.adapter, lambda t: {k.replace(HEAD, f"{HEAD}.original_module"): v for k, v in t.items()})
    refused(CheckpointError, r"original_module.* trained copy is not there", trained, tmp_path / "merged")
    with pytest.raises(CheckpointError, match="trained copy is not there"):
        read(trained.adapter)


@pytest.mark.parametrize("shape", [(0,), (0, 16)])
def test_an_empty_head(shape: tuple[int, ...], trained: Live, tmp_path: Path) -> None:
    rewrite(trained.adapter, lambda tensors: tensors | {f"{HEAD}.weight": torch.empty(shape)})
    refused(CheckpointError, r"classifier.weight is empty \(\[0.*expected", trained, tmp_path / "merged")


def test_a_head_of_another_width(trained: Live, tmp_path: Path) -> None:
    rewrite(trained.adapter, lambda tensors: tensors | {f"{HEAD}.weight": torch.ones(3, 17)})
    refused(BaseModelError, r"classifier.weight is \[3, 16\].*\[3, 17\]", trained, tmp_path / "merged")


def test_a_new_head_of_another_width(trained: Live, tmp_path: Path) -> None:
    tf.BertModel(bert().config).save_pretrained(trained.base)
    rewrite(trained.adapter, lambda tensors: tensors | {f"{HEAD}.weight": torch.ones(3, 17)})
    refused(BaseModelError, r"classifier.weight is \[3, 17\].*no size in config.json", trained, tmp_path / "merged")


def test_a_head_whose_bias_stayed_small(trained: Live, tmp_path: Path) -> None:
    rewrite(trained.adapter, lambda t: {k: v for k, v in t.items() if k != f"{HEAD}.bias"})
    rewrite(trained.adapter, lambda tensors: tensors | {f"{HEAD}.weight": torch.ones(5, 16)})
    refused(BaseModelError, r"classifier.weight would be \[5, 16\] and classifier.bias \[3\]", trained, tmp_path / "m")


@pytest.mark.parametrize(
    "config",
    [
        {"num_labels": 1, "problem_type": "regression"},
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}},
    ],
)
def test_labels_and_their_kind_stay_the_bases(config: dict[str, Any], tmp_path: Path) -> None:
    live = train(tmp_path, partial(bert, **config), target_modules=["query"], task_type="SEQ_CLS")
    merge(live.adapter, live.base, tmp_path / "merged")
    assert distance(logits_of(tmp_path / "merged"), live.logits) < 1e-6
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (live.base, tmp_path / "merged"))
    assert after == before


def test_both_layers_of_a_head_in_a_pytorch_file(tmp_path: Path) -> None:
    saved: dict[str, Any] = {"modules_to_save": ["pre_classifier", "classifier"]}
    live = train(tmp_path, distilbert, target_modules=["q_lin"], task_type="SEQ_CLS", **saved)
    weights = live.adapter / "adapter_model.safetensors"
    torch.save(load_file(weights), live.adapter / "adapter_model.bin")
    weights.unlink()
    distilbert().distilbert.save_pretrained(tmp_path / "bare")
    merge(live.adapter, live.base, tmp_path / "merged")
    assert distance(logits_of(tmp_path / "merged"), live.logits) < 1e-6
    merge(live.adapter, tmp_path / "bare", tmp_path / "from-bare")
    config = json.loads((tmp_path / "from-bare" / "config.json").read_text())
    assert config["architectures"] == ["DistilBertForSequenceClassification"]
    assert len(config["id2label"]) == 3
    assert not tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "from-bare", output_loading_info=True)[
        1
    ]["missing_keys"]


def test_a_plain_key_beside_an_update_is_named(trained: Live, tmp_path: Path) -> None:
    key = "base_model.model.bert.encoder.layer.0.attention.self.query.weight"
    rewrite(trained.adapter, lambda tensors: tensors | {key: torch.ones(16, 16)})
    report = merge(trained.adapter, trained.base, tmp_path / "merged")
    assert [key in warning for warning in report.warnings] == [True]
    assert distance(logits_of(tmp_path / "merged"), trained.logits) < 1e-6


def test_a_copy_whose_place_another_key_tells(trained: Live, tmp_path: Path) -> None:
    """The adapter's name is left out of the first key of the weight, so that a module's might stand in its place."""
    head = {
        leaf: load_file(trained.adapter / "adapter_model.safetensors")[f"{HEAD}.{leaf}"] for leaf in ("bias", "weight")
    }
    copies = {f"{HEAD}.modules_to_save.{leaf}": tensor.clone() for leaf, tensor in head.items()}
    originals = {f"{HEAD}.original_module.{leaf}": torch.zeros_like(tensor) for leaf, tensor in head.items()}
    rewrite(trained.adapter, lambda tensors: tensors | copies | originals)
    type(bert()).from_pretrained(trained.base).bert.save_pretrained(tmp_path / "bare")
    merge(trained.adapter, tmp_path / "bare", tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(merged[f"classifier.{leaf}"], tensor) for leaf, tensor in head.items())


def test_a_copy_within_a_copy_is_that_of_the_inner_module() -> None:
    for name in ("classifier.modules_to_save.default.dense.modules_to_save.default.weight",
                 "classifier.modules_to_save.dense.modules_to_save.weight"):  # fmt: skip
        assert extra_effect(f"base_model.model.{name}", {}).tensor == "classifier.dense.weight"
