"""What is exported is what PEFT loads: the same update, without a warning, and the source's own bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adaptzip.checkpoints._rescaling import pad
from adaptzip.errors import CheckpointError, OutputError, RefusedError, UsageError
from adaptzip.restoring.exporting import export
from adaptzip.restoring.reading import read
from tests.cases.exported import CASES, assert_merges_alike, recompressed
from tests.cases.tiny_peft import bert, llama, merged_by_peft, mixtral, train


@pytest.mark.parametrize("name", CASES)
def test_a_lossless_export_is_the_source_byte_for_byte(name: str, tmp_path: Path) -> None:
    model, config = CASES[name]
    train(model(), tmp_path / "source", **config)
    report = export(tmp_path / "source", tmp_path / "copy")
    assert set(report.files) - {"README.md"} == {"adapter_config.json", "adapter_model.safetensors"}
    assert report.bytes == sum((tmp_path / "copy" / file).stat().st_size for file in report.files)
    for file in set(report.files) - {"README.md"}:
        assert (tmp_path / "copy" / file).read_bytes() == (tmp_path / "source" / file).read_bytes()


@pytest.mark.parametrize("name", CASES)
def test_other_ranks_and_scales_load_in_peft_with_the_same_update(name: str, tmp_path: Path) -> None:
    model, config = CASES[name]
    trained = train(model(), tmp_path / "source", **config)
    changed = recompressed(read(tmp_path / "source"))
    export(changed, tmp_path / "copy")
    assert_merges_alike(model, trained, tmp_path / "copy")
    again = read(tmp_path / "copy")
    assert again.extras.keys() == changed.extras.keys()
    assert again.modules.keys() == changed.modules.keys()
    with safe_open(tmp_path / "copy" / "adapter_model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    export(changed, tmp_path / "twin")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "twin" / file).read_bytes() == (tmp_path / "copy" / file).read_bytes()


def test_scales_are_exact_whatever_the_rank(tmp_path: Path) -> None:
    """PEFT divides alpha by the rank; the alpha written gives the scale back to the last bit."""
    train(llama(), tmp_path / "source", r=2, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    adapter = read(tmp_path / "source")
    scales = iter((0.1, 1 / 3, 0.7, 1.1, 2.3, 1e-7, 123.4, 5.0))
    modules = {
        name: replace(pad(f, 2 + n), scaling=next(scales)) for n, (name, f) in enumerate(adapter.modules.items())
    }
    export(replace(adapter, modules=modules), tmp_path / "copy")
    again = read(tmp_path / "copy")
    assert {n: f.scaling for n, f in again.modules.items()} == {n: f.scaling for n, f in modules.items()}


def test_a_module_whose_rank_fell_to_zero_still_loads(tmp_path: Path) -> None:
    train(llama(), tmp_path / "source", r=2, target_modules=["q_proj"])
    adapter = read(tmp_path / "source")
    name = "model.layers.1.self_attn.q_proj"
    empty = replace(adapter.modules[name], A=torch.zeros(0, 16), B=torch.zeros(16, 0))
    export(replace(adapter, modules={**adapter.modules, name: empty}), tmp_path / "copy")
    merged = merged_by_peft(llama(), tmp_path / "copy")
    base = llama().state_dict()
    assert torch.equal(merged[f"{name}.weight"], base[f"{name}.weight"])
    assert read(tmp_path / "copy").modules[name].rank == 1


def test_names_with_special_characters_are_matched_exactly(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.blocks = nn.ModuleDict({"a+b": nn.Linear(4, 4), "a-b": nn.Linear(4, 4), "aab": nn.Linear(4, 4)})

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.blocks["a+b"](self.blocks["a-b"](self.blocks["aab"](x)))
            return found

    trained = train(Named(), tmp_path / "source", r=2, target_modules=["a+b", "a-b", "aab"])
    export(recompressed(read(tmp_path / "source")), tmp_path / "copy")
    assert_merges_alike(Named, trained, tmp_path / "copy")


def test_without_a_configuration_all_modules_are_targeted_by_name(tmp_path: Path) -> None:
    trained = train(llama(), tmp_path / "source", r=2, lora_alpha=5, target_modules=["q_proj"], layers_to_transform=[1])
    (tmp_path / "source" / "adapter_config.json").unlink()
    export(read(tmp_path / "source", alpha=5), tmp_path / "copy")
    assert_merges_alike(llama, trained, tmp_path / "copy")
    same = [(tmp_path / folder / "adapter_model.safetensors").read_bytes() for folder in ("source", "copy")]
    assert same[0] == same[1]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_of_the_factors(dtype: Any, tmp_path: Path) -> None:
    train(bert(), tmp_path / "source", r=2, target_modules=["query"], task_type="SEQ_CLS")
    export(tmp_path / "source", tmp_path / "copy", dtype=dtype)
    adapter = read(tmp_path / "copy")
    assert {factors.A.dtype for factors in adapter.modules.values()} == {getattr(torch, dtype)}
    assert {tensor.dtype for tensor in adapter.extras.values()} == {torch.float32}
    merged_by_peft(bert(), tmp_path / "copy")


def test_float16_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    train(llama(), tmp_path / "source", r=2, target_modules=["q_proj"])
    adapter = read(tmp_path / "source")
    name, factors = next(iter(adapter.modules.items()))
    large = replace(adapter, modules={**adapter.modules, name: replace(factors, B=factors.B * 1e12)})
    with pytest.raises(RefusedError, match=r"has numbers beyond 65504, which float16 cannot"):
        export(large, tmp_path / "copy", dtype="float16")
    assert not (tmp_path / "copy").exists()


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    train(llama(), tmp_path / "source", r=2, target_modules=["q_proj"])
    with pytest.raises(UsageError, match="no checkpoint dialect 'nonsense'") as caught:
        export(tmp_path / "source", tmp_path / "copy", as_="nonsense")
    assert "peft" in str(caught.value.hint)
    with pytest.raises(UsageError, match="no dtype 'int4'"):
        export(tmp_path / "source", tmp_path / "copy", dtype="int4")  # type: ignore[arg-type]


def test_an_existing_output_is_replaced_only_when_forced_and_of_the_same_kind(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    train(llama(), source, r=2, target_modules=["q_proj"])
    copy.mkdir()
    export(source, copy)
    with pytest.raises(OutputError, match="exists already") as caught:
        export(source, copy)
    assert "force" in str(caught.value.hint)
    (copy / "adapter_model.safetensors").write_bytes(b"old")
    (copy / "adapter_model.bin").write_bytes(b"stale")
    export(source, copy, force=True)
    assert {p.name for p in copy.iterdir()} - {"README.md"} == {"adapter_config.json", "adapter_model.safetensors"}
    (copy / "thesis.txt").write_text("my work")
    with pytest.raises(OutputError, match=r"thesis\.txt, which is no part of such an output"):
        export(source, copy, force=True)
    assert (copy / "thesis.txt").read_text() == "my work"
    export(copy, tmp_path / "other")
    (copy / "thesis.txt").unlink()
    with pytest.raises(UsageError, match="would replace its source"):
        export(copy, copy, force=True)
    export(tmp_path / "other", copy, force=True)
    assert (copy / "adapter_model.safetensors").read_bytes() == (source / "adapter_model.safetensors").read_bytes()


def test_overlapping_patterns_survive_the_sorting_of_the_keys(tmp_path: Path) -> None:
    """Where the source's text is lost, sorted keys would turn these two patterns round."""
    train(llama(), tmp_path / "a", r=4, lora_alpha=4, target_modules=["q_proj"])
    path = tmp_path / "a" / "adapter_config.json"
    patterns = {"q_proj": 32, ".*1.*q_proj": 8}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"alpha_pattern": patterns}))
    adapter = read(tmp_path / "a")
    export(replace(adapter, meta=replace(adapter.meta, config_text=None)), tmp_path / "b")
    expected = {name: factors.scaling for name, factors in adapter.modules.items()}
    assert {name: factors.scaling for name, factors in read(tmp_path / "b").modules.items()} == expected


def test_an_old_file_with_a_module_per_expert_loads_after_compression(tmp_path: Path) -> None:
    """PEFT stacks such modules into whole parameters on loading, for which they all need one rank."""
    source = tmp_path / "source"
    source.mkdir()
    torch.manual_seed(0)
    shapes = {
        f"experts.{e}.{w}": s for e in range(3) for w, s in (("w1", (16, 24)), ("w3", (16, 24)), ("w2", (24, 16)))
    }
    tensors = {}
    for layer in range(2):
        for name, (inner, out) in {"gate": (16, 3), **shapes}.items():
            stem = f"base_model.model.model.layers.{layer}.block_sparse_moe.{name}"
            tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"] = (
                torch.randn(2, inner),
                torch.randn(out, 2),
            )
    save_file(tensors, source / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["w1", "w2", "w3", "gate"]}
    (source / "adapter_config.json").write_text(json.dumps(config))
    export(recompressed(read(source)), tmp_path / "copy")
    allow = ("The following (rank|alpha)_pattern keys did not match",)
    expected, merged = (merged_by_peft(mixtral(), folder, allow=allow) for folder in (source, tmp_path / "copy"))
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, atol=2e-5, rtol=2e-5)


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path: Path) -> None:
    train(llama(), tmp_path / "source", r=4, target_modules=["q_proj"])
    adapter = read(tmp_path / "source")
    resource = pytest.importorskip("resource", reason="only Unix limits the size of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written") as caught:
            export(adapter, tmp_path / "copy")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "free some space" in str(caught.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_mixtures_that_peft_cannot_hold_are_refused(tmp_path: Path) -> None:
    train(llama(), tmp_path / "source", r=2, target_modules=["q_proj"], use_dora=True)
    adapter = read(tmp_path / "source")
    name = next(iter(adapter.modules))
    modules = {**adapter.modules, name: replace(adapter.modules[name], magnitude=None)}
    with pytest.raises(CheckpointError, match=f"module {name} has no magnitude, but use_dora is set"):
        export(replace(adapter, modules=modules), tmp_path / "copy")
    unsaid = replace(adapter.meta, config={})
    with pytest.raises(RefusedError, match="only 1 of 2 modules have a DoRA magnitude"):
        export(replace(adapter, modules=modules, meta=unsaid), tmp_path / "copy")
    with pytest.raises(RefusedError, match="has no modules"):
        export(replace(adapter, modules={}, meta=unsaid), tmp_path / "copy")


def test_every_readable_real_adapter_survives_byte_for_byte(material: Path, tmp_path: Path) -> None:
    names = [
        "bk7195-delta", "gpt2-tigrinya", "minilm-trec-r8", "movies-lora-sara", "roberta-agnews-aguleon",
        "roberta-pt-paulo", "sd15-te-hansjohn", "sdxl-te-hansjohn", "smollm2-trec-r8",
    ]  # fmt: skip
    for name in names:
        for file in set(export(material / "adapters" / name, tmp_path / name).files) - {"README.md"}:
            assert (tmp_path / name / file).read_bytes() == (material / "adapters" / name / file).read_bytes()


def old_biases(folder: Path) -> Any:
    """An adapter whose targets' biases have the plain keys that PEFT before 0.7 gave them."""
    trained = train(bert(), folder, r=2, target_modules=["query"], bias="lora_only", task_type="SEQ_CLS")
    path = folder / "adapter_model.safetensors"
    tensors = {key.replace(".base_layer.bias", ".bias"): tensor for key, tensor in load_file(path).items()}
    assert any(key.endswith("query.bias") for key in tensors)
    save_file(tensors, path, {"format": "pt"})
    return trained


@pytest.mark.parametrize("portable", [False, True])
def test_biases_under_old_keys_are_written_where_peft_finds_them(portable: bool, tmp_path: Path) -> None:
    trained = old_biases(tmp_path / "source")
    if portable:
        with pytest.raises(RefusedError, match="the portable profile cannot hold tensors beside"):
            export(tmp_path / "source", tmp_path / "copy", portable=True)
        return
    export(tmp_path / "source", tmp_path / "copy")
    assert_merges_alike(bert, trained, tmp_path / "copy")


def test_two_biases_of_one_module_are_refused(tmp_path: Path) -> None:
    old_biases(tmp_path / "source")
    adapter = read(tmp_path / "source")
    key = next(key for key in adapter.extras if key.endswith("query.bias"))
    twice = {**adapter.extras, key.replace(".bias", ".base_layer.bias"): torch.ones(16)}
    with pytest.raises(RefusedError, match="would have the key"):
        export(replace(adapter, extras=twice), tmp_path / "copy")


def test_tensors_of_base_layers_that_are_none_go_by_the_keys_that_peft_loads(tmp_path: Path) -> None:
    """They come with the extras of an adapter that has other modules; PEFT would drop them without a word."""
    train(bert(), tmp_path / "query", r=2, target_modules=["query"], task_type="SEQ_CLS")
    train(bert(), tmp_path / "value", r=2, target_modules=["value"], task_type="SEQ_CLS", bias="all")
    other = read(tmp_path / "value").extras
    key = "base_model.model.bert.encoder.layer.0.attention.self.value.base_layer.bias"
    export(replace(read(tmp_path / "query"), extras=other), tmp_path / "mixed")
    merged = merged_by_peft(bert(), tmp_path / "mixed")
    assert torch.equal(merged["bert.encoder.layer.0.attention.self.value.bias"], other[key])


def test_a_trained_copy_by_its_name_in_memory_is_one_that_peft_loads(tmp_path: Path) -> None:
    train(bert(), tmp_path / "source", r=2, target_modules=["query"], task_type="SEQ_CLS")
    adapter = read(tmp_path / "source")
    extras = {
        key.replace(".classifier.", ".classifier.modules_to_save.default."): t for key, t in adapter.extras.items()
    }
    assert not extras.keys() & adapter.extras.keys()
    export(replace(adapter, extras=extras), tmp_path / "copy")
    assert read(tmp_path / "copy").extras.keys() == adapter.extras.keys()
    merged = merged_by_peft(bert(), tmp_path / "copy")
    assert torch.equal(merged["classifier.bias"], adapter.extras["base_model.model.classifier.bias"])
