"""A merged model is opened as transformers would before it is published."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from adaptzip.errors import BaseModelError, CheckFailedError
from adaptzip.models import guests
from adaptzip.restoring.merging import folders as merging_folders
from adaptzip.restoring.merging import merge, weights
from adaptzip.restoring.merging.config import merged_config
from adaptzip.restoring.merging.plan import MergePlan
from tests.cases.live_models import SIZES, llama, train


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path]:
    live = train(tmp_path, llama, 36, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    return live.base, live.adapter


def wrong_config(monkeypatch: pytest.MonkeyPatch, **values: object) -> None:
    """Let merging write a configuration that does not fit its tensors."""
    from adaptzip.restoring.merging import plan

    monkeypatch.setattr(plan, "merged_config", lambda *a, **k: {**merged_config(*a, **k), **values})


def test_a_configuration_that_does_not_fit(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = trained
    wrong_config(monkeypatch, vocab_size=32)
    with pytest.raises(BaseModelError, match=r"weight would be \[36, 16\], but .*LlamaForCausalLM has \[32, 16\]"):
        merge(adapter, base, tmp_path / "merged")
    assert {p.name for p in tmp_path.iterdir()} == {"base", "adapter"}


def test_a_layer_that_nothing_fills(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = trained
    wrong_config(monkeypatch, num_hidden_layers=2)
    with pytest.raises(BaseModelError, match=r"model\.layers\.1\..* would be missing"):
        merge(adapter, base, tmp_path / "merged")


def test_a_configuration_that_transformers_refuses(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = trained
    wrong_config(monkeypatch, hidden_size="wide")
    with pytest.raises(BaseModelError, match="with this adapter merged, transformers can't load it") as error:
        merge(adapter, base, tmp_path / "merged")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "unheard_of"},
        {"architectures": ["UnheardOf"]},
        {"architectures": None},
        {"architectures": ["UnheardOf"], "auto_map": {"AutoModelForCausalLM": "modeling.UnheardOf"}},
        {"model_type": None, "_class_name": "UNet2DConditionModel", "architectures": None},
        {"num_hidden_layers": "two"},
        {"intermediate_size": 99},
    ],
)
def test_what_transformers_does_not_open_before_either(config: dict[str, object], tmp_path: Path) -> None:
    live = train(tmp_path, llama, target_modules=["q_proj"])
    file = live.base / "config.json"
    file.write_text(json.dumps({k: v for k, v in (json.loads(file.read_text()) | config).items() if v is not None}))
    merge(live.adapter, live.base, tmp_path / "merged")


def test_a_part_of_a_model(tmp_path: Path) -> None:
    live = train(tmp_path, llama, target_modules=["q_proj"])
    file = live.base / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if ".mlp." not in k}, file, metadata={"format": "pt"})
    merge(live.adapter, live.base, tmp_path / "merged")


def test_without_transformers_shapes_are_checked_against_each_other(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = trained
    monkeypatch.setattr(guests, "find_spec", lambda name: None)
    merge(adapter, base, tmp_path / "merged")
    file = adapter / "adapter_model.safetensors"
    save_file({key: tensor for key, tensor in load_file(file).items() if "lm_head" not in key}, file)
    with pytest.raises(BaseModelError, match="only one of the two"):
        merge(adapter, base, tmp_path / "again")


def test_layers_of_neither_base_nor_adapter_are_named(tmp_path: Path) -> None:
    config = tf.BertConfig(vocab_size=32, num_labels=3, **SIZES)
    tf.set_seed(0)
    tf.BertForMaskedLM(config).save_pretrained(tmp_path / "base")
    whole = tf.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    live = train(tmp_path / "x", lambda: whole, target_modules=["query"], task_type="SEQ_CLS")
    report = merge(live.adapter, tmp_path / "base", tmp_path / "merged")
    assert ["pooler.dense.weight" in w and "random" in w for w in report.warnings] == [True]


def test_a_head_without_a_task_has_no_place_in_the_bases_class(tmp_path: Path) -> None:
    config = tf.BertConfig(vocab_size=32, num_labels=3, **SIZES)
    tf.set_seed(0)
    tf.BertModel(config).save_pretrained(tmp_path / "base")
    whole = tf.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    live = train(tmp_path / "x", lambda: whole, target_modules=["query"], modules_to_save=["classifier"])
    report = merge(live.adapter, tmp_path / "base", tmp_path / "merged")
    assert ["classifier.bias" in w and "no place in BertModel" in w for w in report.warnings] == [True]


def test_what_is_written_is_read_back(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapter = trained
    write = weights.write_weights

    def lose_one(plan: MergePlan, folder: Path, **rest: Any) -> weights.Written:
        written = write(plan, folder, **rest)
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.norm.weight"]
        save_file(tensors, folder / "model.safetensors")
        return written

    monkeypatch.setattr(merging_folders, "write_weights", lose_one)
    with pytest.raises(CheckFailedError, match="model.norm.weight"):
        merge(adapter, base, tmp_path / "merged")
    assert {p.name for p in tmp_path.iterdir()} == {"base", "adapter"}


def test_a_base_that_is_not_finite(tmp_path: Path) -> None:
    live = train(tmp_path, llama, target_modules=["q_proj"])
    file = live.base / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    report = merge(live.adapter, live.base, tmp_path / "merged")
    assert ["model.norm.weight" in w and "NaN" in w for w in report.warnings] == [True]
    tensors["model.layers.0.self_attn.q_proj.weight"][0, 0] = float("inf")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckFailedError, match=r"q_proj.weight holds NaN or infinity in the base already"):
        merge(live.adapter, live.base, tmp_path / "again")


def test_nothing_is_read_of_the_weights(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    empty = {
        name: torch.empty(t.shape, device="meta") for name, t in load_file(tmp_path / "base/model.safetensors").items()
    }
    (tmp_path / "base" / "model.safetensors").unlink()
    found = guests.dry_load(tmp_path / "base", empty)
    assert found is not None
    assert (found.model_class, found.mismatched, found.missing) == ("LlamaForCausalLM", {}, frozenset())


def test_merging_without_transformers_imports_nothing_of_it(tmp_path: Path) -> None:
    live = train(tmp_path, llama, target_modules=["q_proj"])
    config = json.loads((live.base / "config.json").read_text())
    (live.base / "config.json").write_text(json.dumps({**config, "architectures": None}))
    code = (
        "import sys; from adaptzip.restoring.merging import merge; "
        f"merge({str(live.adapter)!r}, {str(live.base)!r}, {str(tmp_path / 'merged')!r}); "
        "assert 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
