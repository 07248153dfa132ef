"""What a merged model's folder holds, and what keeps it from being written."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.compressed import Compressed
from adaptzip.core.meta import Meta
from adaptzip.errors import (
    AdaptzipError,
    BaseModelError,
    CheckFailedError,
    CheckpointError,
    OutputError,
    RefusedError,
    UsageError,
)
from adaptzip.fitting.compression import compress
from adaptzip.restoring.merging import merge
from adaptzip.restoring.reading import read
from tests.cases.merge_cases import (
    Case,
    assert_same_tensors,
    bert,
    bert_encoder,
    build,
    gpt2,
    llama,
    tensors_of,
    tied_llama,
)

LINEAR = Case(llama, {"target_modules": "all-linear"})


def rename(folder: Path, old: str, new: str) -> None:
    """Change the prefix of every tensor that has `old`."""
    file = folder / "model.safetensors"
    tensors = {k.replace(old, new, 1) if k.startswith(old) else k: v for k, v in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def set_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def adapter(name: str = "model.layers.0.self_attn.q_proj", out: int = 16, width: int = 16) -> Adapter:
    return Adapter({name: LoraFactors(torch.ones(2, width), torch.ones(out, 2))})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    llama().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_sharded_base_keeps_its_files_and_its_index(tmp_path: Path) -> None:
    built = build(LINEAR, tmp_path, shard_size="8KB")
    report = merge(built.adapter, built.base, tmp_path / "merged")
    assert_same_tensors(tensors_of(tmp_path / "merged"), built.expected)
    before, after = (
        json.loads((folder / "model.safetensors.index.json").read_text()) for folder in (built.base, report.path)
    )
    assert len(set(before["weight_map"].values())) > 2
    assert after == before
    for name in set(before["weight_map"].values()):
        assert load_file(built.base / name).keys() == load_file(report.path / name).keys()
    tf.AutoModelForCausalLM.from_pretrained(report.path)


def test_a_head_joins_the_last_shard_and_the_index(tmp_path: Path) -> None:
    case = Case(
        bert_encoder,
        {"target_modules": ["query"], "task_type": "SEQ_CLS"},
        tf.AutoModelForSequenceClassification,
        {"num_labels": 5},
    )
    built = build(case, tmp_path, shard_size="8KB")
    merge(built.adapter, built.base, tmp_path / "merged")
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    tensors = tensors_of(tmp_path / "merged")
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    assert index["metadata"]["total_parameters"] == sum(t.numel() for t in tensors.values())
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "merged" / file)
    model = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert model.config.num_labels == 5
    assert_same_tensors(model.state_dict(), built.expected)


def test_a_classifier_over_a_language_model(tmp_path: Path) -> None:
    case = Case(
        llama,
        {"target_modules": ["q_proj"], "task_type": "SEQ_CLS"},
        tf.AutoModelForSequenceClassification,
        {"num_labels": 1},
    )
    built = build(case, tmp_path)
    merge(built.adapter, built.base, tmp_path / "merged")
    kept = {"lm_head.weight": tensors_of(built.base)["lm_head.weight"]}
    assert_same_tensors(tensors_of(tmp_path / "merged"), {**built.expected, **kept})
    model = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert type(model) is tf.LlamaForSequenceClassification
    assert model.config.num_labels == 1
    assert_same_tensors(model.state_dict(), built.expected)


def test_every_kind_of_source_merges_alike(tmp_path: Path) -> None:
    built = build(LINEAR, tmp_path)
    packed = compress(built.adapter, tmp_path / "a.adz", lossless=True)
    sources: list[Path | str | Compressed | Adapter] = [
        tmp_path / "a.adz",
        str(tmp_path / "a.adz"),
        packed,
        read(built.adapter),
    ]
    for number, source in enumerate(sources):
        merge(source, built.base, tmp_path / str(number))
        assert_same_tensors(tensors_of(tmp_path / str(number)), built.expected)


def test_other_files_are_carried_over_and_other_weights_are_not(base: Path, tmp_path: Path) -> None:
    kept = [
        "tokenizer.json",
        "spiece.model",
        "modeling.py",
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
    ]
    left = [
        "flax_model.msgpack",
        "model.gguf",
        "original/consolidated.00.pth",
        ".git/config",
        "training_args.bin",
    ]
    for name in (*kept, *left):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes(name.encode())
    report = merge(adapter(), base, tmp_path / "merged")
    for name in kept:
        assert (tmp_path / "merged" / name).read_bytes() == name.encode()
    assert not set(report.files) & set(left)
    assert (base / "config.json").read_bytes() == (tmp_path / "merged" / "config.json").read_bytes()
    sizes = {name: (tmp_path / "merged" / name).stat().st_size for name in report.files}
    assert report.bytes == sum(sizes.values())
    assert {"config.json", "model.safetensors", *kept} <= sizes.keys()


def test_a_merged_file_is_what_the_safetensors_library_writes(tmp_path: Path) -> None:
    built = build(LINEAR, tmp_path)
    merge(built.adapter, built.base, tmp_path / "merged")
    file = tmp_path / "merged" / "model.safetensors"
    save_file(load_file(file), tmp_path / "again", metadata={"format": "pt"})
    assert file.read_bytes() == (tmp_path / "again").read_bytes()


def test_a_pytorch_base_becomes_safetensors(tmp_path: Path) -> None:
    built = build(LINEAR, tmp_path)
    weights = built.base / "model.safetensors"
    torch.save(load_file(weights), built.base / "pytorch_model.bin")
    weights.unlink()
    report = merge(built.adapter, built.base, tmp_path / "merged")
    assert "model.safetensors" in report.files
    assert "pytorch_model.bin" not in report.files
    assert_same_tensors(tensors_of(tmp_path / "merged"), built.expected)


@pytest.mark.parametrize(
    ("make", "targets", "old", "new"),
    [
        (bert, ["query"], "bert.", ""),
        (bert, ["query"], "bert.", "model.bert."),
        (llama, ["q_proj"], "model.", ""),
        (llama, ["q_proj"], "model.", "model.language_model."),
        (llama, ["q_proj", "lm_head"], "model.", "language_model."),
        (gpt2, ["c_attn"], "transformer.", ""),
    ],
)
def test_a_base_that_stores_another_prefix(
    make: object, targets: list[str], old: str, new: str, tmp_path: Path
) -> None:
    built = build(Case(make, {"target_modules": targets}), tmp_path)  # type: ignore[arg-type]
    rename(built.base, old, new)
    merge(built.adapter, built.base, tmp_path / "merged")
    rename(tmp_path / "merged", new, old) if new else None
    found = tensors_of(tmp_path / "merged")
    expected = {k.removeprefix("" if new else old): v for k, v in built.expected.items()}
    assert_same_tensors(found, expected)


def test_an_adapter_without_the_prefix_that_the_base_stores(tmp_path: Path) -> None:
    built = build(Case(bert_encoder, {"target_modules": ["query"]}), tmp_path)
    rename(built.base, "", "bert.")
    merge(built.adapter, built.base, tmp_path / "merged")
    found = tensors_of(tmp_path / "merged")
    assert_same_tensors(found, {f"bert.{key}": tensor for key, tensor in built.expected.items()})


def test_two_places_that_fit_are_an_error(base: Path, tmp_path: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    twice = {f"{tower}.{key}": t.clone() for key, t in tensors.items() for tower in ("text", "vision")}
    save_file(twice, base / "model.safetensors")
    with pytest.raises(BaseModelError, match="several places") as error:
        merge(adapter("layers.0.self_attn.q_proj"), base, tmp_path / "merged")
    for tower in ("text", "vision"):
        assert f"{tower}.model.layers.0.self_attn.q_proj.weight" in str(error.value)


def test_layer_norms_of_old_checkpoints(tmp_path: Path) -> None:
    built = build(Case(bert, {"target_modules": ["query"], "bias": "all", "task_type": "SEQ_CLS"}), tmp_path)
    file = built.base / "model.safetensors"
    old = {k.replace("LayerNorm.bias", "LayerNorm.beta"): v for k, v in load_file(file).items()}
    save_file(old, file, metadata={"format": "pt"})
    merge(built.adapter, built.base, tmp_path / "merged")
    found = tensors_of(tmp_path / "merged")
    assert_same_tensors({k.replace("beta", "bias"): v for k, v in found.items()}, built.expected)


def test_tied_embeddings_that_are_both_stored_stay_equal(tmp_path: Path) -> None:
    built = build(Case(tied_llama, {"target_modules": ["embed_tokens"]}), tmp_path)
    file = built.base / "model.safetensors"
    tensors = load_file(file)
    both = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(both, file, metadata={"format": "pt"})
    merge(built.adapter, built.base, tmp_path / "merged")
    found = tensors_of(tmp_path / "merged")
    assert torch.equal(found["lm_head.weight"], built.expected["model.embed_tokens.weight"])
    assert torch.equal(found["model.embed_tokens.weight"], built.expected["model.embed_tokens.weight"])


def test_a_resized_vocabulary(tmp_path: Path, base: Path) -> None:
    rows = torch.randn(44, 16)
    extras = {f"base_model.model.{name}.weight": rows for name in ("model.embed_tokens", "lm_head")}
    merge(replace(adapter(), extras=extras), base, tmp_path / "merged")
    model = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert model.config.vocab_size == 44
    assert torch.equal(model.get_input_embeddings().weight, rows)


@pytest.mark.parametrize("model_type", ["gpt2", "unheard_of", None])
def test_square_conv1d_weights_are_told_from_the_base(model_type: str | None, tmp_path: Path) -> None:
    built = build(Case(gpt2, {"target_modules": ["attn.c_proj"]}), tmp_path)
    set_config(built.base, model_type=model_type)
    merge(built.adapter, built.base, tmp_path / "merged")
    assert_same_tensors(tensors_of(tmp_path / "merged"), built.expected)


def test_progress_counts_tensors(base: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, float, float]] = []
    merge(adapter(), base, tmp_path / "merged", progress=lambda *step: seen.append(step))
    assert seen == [("merging", i + 1, 21) for i in range(21)]


def refused(kind: type[AdaptzipError], match: str, source: Adapter, base: Path, output: Path) -> None:
    """Merging raises, says what to do, and leaves nothing behind."""
    around = set(output.parent.iterdir())
    with pytest.raises(kind, match=match) as error:
        merge(source, base, output)
    assert error.value.hint
    assert "\n" not in str(error.value)
    assert set(output.parent.iterdir()) == around


def test_a_module_that_the_base_lacks(base: Path, tmp_path: Path) -> None:
    source = Adapter({**adapter().modules, **adapter("model.layers.7.self_attn.q_proj").modules})
    refused(
        BaseModelError, r"1 of .* 2 modules: model\.layers\.7\.self_attn\.q_proj; similar there: model",
        source, base, tmp_path / "merged",
    )  # fmt: skip


def test_a_module_of_another_shape(base: Path, tmp_path: Path) -> None:
    refused(
        BaseModelError, r"q_proj.weight is \[16, 16\], .* model.layers.0.self_attn.q_proj expects \[16, 17\]",
        adapter(width=17), base, tmp_path / "merged",
    )  # fmt: skip


def test_a_tensor_that_is_no_head_and_missing(base: Path, tmp_path: Path) -> None:
    extras = {"base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias": torch.zeros(16)}
    refused(
        BaseModelError, "lacks the tensor model.layers.0.self_attn.q_proj.bias",
        replace(adapter(), extras=extras), base, tmp_path / "merged",
    )  # fmt: skip


def test_lora_bias_without_a_bias(base: Path, tmp_path: Path) -> None:
    module = replace(adapter().modules["model.layers.0.self_attn.q_proj"], bias=torch.zeros(16))
    source = Adapter({"model.layers.0.self_attn.q_proj": module})
    refused(BaseModelError, "has no .*q_proj.bias", source, base, tmp_path / "merged")


def test_token_rows_beyond_the_vocabulary(base: Path, tmp_path: Path) -> None:
    key = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    meta = Meta(config={"trainable_token_indices": [3, 40]})
    source = replace(adapter(), extras={key: torch.zeros(2, 16)}, meta=meta)
    refused(CheckpointError, "trainable_token_indices", source, base, tmp_path / "merged")


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8"])
def test_a_quantised_base(method: str, base: Path, tmp_path: Path) -> None:
    set_config(base, quantization_config={"quant_method": method})
    refused(RefusedError, f"quantised \\({method}\\)", adapter(), base, tmp_path / "merged")


def test_a_base_of_integers(base: Path, tmp_path: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    save_file({key: tensor.to(torch.int8) for key, tensor in tensors.items()}, base / "model.safetensors")
    refused(RefusedError, r"is quantised \(.*weight is int8\)", adapter(), base, tmp_path / "merged")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_nan_and_infinity(value: float, tmp_path: Path) -> None:
    llama().half().save_pretrained(tmp_path / "base")
    name = "model.layers.0.self_attn.q_proj"
    source = Adapter({name: LoraFactors(torch.full((1, 16), value), torch.ones(16, 1))})
    refused(CheckFailedError, f"{name}.weight", source, tmp_path / "base", tmp_path / "merged")


def test_an_existing_output(base: Path, tmp_path: Path) -> None:
    output = tmp_path / "merged"
    merge(adapter(), base, output)
    first = tensors_of(output)
    refused(OutputError, "exists", adapter(), base, output)
    merge(adapter("model.layers.1.self_attn.q_proj"), base, output, force=True)
    assert not torch.equal(
        first["model.layers.1.self_attn.q_proj.weight"],
        tensors_of(output)["model.layers.1.self_attn.q_proj.weight"],
    )
    (output / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="notes.txt"):
        merge(adapter(), base, output, force=True)


@pytest.mark.parametrize("place", [".", "inside", ".."])
def test_an_output_that_overlaps_the_base(place: str, base: Path) -> None:
    with pytest.raises(UsageError, match=r"the output would (replace|lie in) the base model"):
        merge(adapter(), base, base / place, force=True)


def test_an_interrupted_merge_leaves_nothing(base: Path, tmp_path: Path) -> None:
    def stop(phase: str, done: float, total: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(adapter(), base, tmp_path / "merged", progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


def test_a_base_truncated_after_opening_its_header(base: Path, tmp_path: Path) -> None:
    file = base / "model.safetensors"
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    file.write_bytes(data[: 8 + length + 100])
    refused(BaseModelError, "truncated", adapter(), base, tmp_path / "merged")
    shutil.rmtree(base)
    refused(BaseModelError, "does not exist", adapter(), base, tmp_path / "merged")


def test_what_changes_nothing_is_said(base: Path, tmp_path: Path) -> None:
    """PEFT loads no plain weight of a module with LoRA, which is a copy that was not trained."""
    name = "model.layers.0.self_attn.q_proj"
    modules = {name: LoraFactors(torch.ones(1, 16), torch.ones(16, 1))}
    given = Adapter(modules, {f"base_model.model.{name}.weight": torch.zeros(16, 16)}, Meta())
    (warning,) = merge(given, base, tmp_path / "merged").warnings
    assert f"{name}.weight did nothing: PEFT loads no such key" in warning
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "merged"))
    assert torch.equal(after[f"{name}.weight"], before[f"{name}.weight"] + 1)
