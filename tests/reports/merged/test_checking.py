"""A merged model is told from its base, adapter, roundings and mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

import adaptzip
from adaptzip.core.adapter import Adapter
from adaptzip.errors import BaseModelError, UsageError
from adaptzip.reports.merged import CheckReport
from tests.cases.merge_cases import Built, Case, bert_encoder, build, llama, mixtral, tied_llama

PROJECTION = "model.layers.0.self_attn.q_proj.weight"
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(Case(llama, {"target_modules": "all-linear"}), tmp_path_factory.mktemp("built"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def merged(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adaptzip.merge(built.adapter, built.base, tmp_path_factory.mktemp("merged") / "m").path


def by_peft(built: Built, folder: Path, *, autocast: bool = True, dtype: Any = torch.bfloat16, **how: Any) -> Path:
    model = tf.AutoModelForCausalLM.from_pretrained(built.base, dtype=dtype)
    wrapped = PeftModel.from_pretrained(model, built.adapter, autocast_adapter_dtype=autocast)
    wrapped.merge_and_unload(**how).save_pretrained(folder)
    return folder


def rewritten(model: Path, folder: Path, change: Callable[[dict[str, Tensor]], Mapping[str, Tensor]]) -> Path:
    """A copy of a model with other tensors."""
    shutil.copytree(model, folder)
    file = folder / "model.safetensors"
    save_file({k: t.contiguous() for k, t in change(load_file(file)).items()}, file, metadata={"format": "pt"})
    return folder


def other_adapter(built: Built, seed: int = 7) -> Adapter:
    """The adapter with other numbers of the same size."""
    adapter = adaptzip.read(built.adapter)
    generator = torch.Generator().manual_seed(seed)

    def shuffled(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1)[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape)

    modules = {k: replace(m, A=shuffled(m.A), B=shuffled(m.B)) for k, m in adapter.modules.items()}
    return replace(adapter, modules=modules)


def row(report: CheckReport, name: str) -> Any:
    return next(tensor for tensor in report.tensors if tensor.name == name)


def test_ours_and_pefts_are_exact(built: Built, merged: Path) -> None:
    for folder in (merged, built.base.parent / "expected"):
        report = adaptzip.check(folder, built.base, built.adapter, max_ulps=0)
        assert (report.verdict, report.rule, report.ulps, report.explanation) == ("exact", "default", 0, "")
        assert (report.notes, report.config, report.left_out) == ((), (), ())
        assert {tensor.kind for tensor in report.tensors} == {"module"}
        assert len(report.tensors) + report.unchanged == len(load_file(merged / "model.safetensors"))


@pytest.mark.parametrize(
    ("how", "rule"),
    [({"safe_merge": True}, "safe"), ({"autocast": False}, "cast"), ({"autocast": False, "safe_merge": True}, "cast")],
)
def test_pefts_other_roundings(how: dict[str, Any], rule: str, built: Built, tmp_path: Path) -> None:
    report = adaptzip.check(by_peft(built, tmp_path / "peft", **how), built.base, built.adapter)
    assert (report.verdict, report.rule) == ("exact", rule)
    assert {tensor.rule for tensor in report.tensors} == {rule}


def test_ours_with_safe_merge(built: Built, tmp_path: Path) -> None:
    adaptzip.merge(built.adapter, built.base, tmp_path / "safe", safe_merge=True)
    assert adaptzip.check(tmp_path / "safe", built.base, built.adapter).rule == "safe"


def test_scales(built: Built, merged: Path, tmp_path: Path) -> None:
    for scale in (0.5, 0.95, -1.0):
        folder = adaptzip.merge(built.adapter, built.base, tmp_path / str(scale), scale=scale).path
        assert adaptzip.check(folder, built.base, built.adapter, scale=scale).verdict == "exact"
        wrong = adaptzip.check(folder, built.base, built.adapter)
        assert wrong.verdict == "no"
        assert all(tensor.scale == pytest.approx(scale, abs=0.02) for tensor in wrong.tensors)
    assert adaptzip.check(tmp_path / "-1.0", built.base, built.adapter).explanation == (
        "the adapter is taken away instead of added"
    )
    assert "at about 0.5 times the scale" in adaptzip.check(tmp_path / "0.5", built.base, built.adapter).explanation


def test_not_merged_merged_twice_and_merged_in_part(built: Built, merged: Path, tmp_path: Path) -> None:
    assert adaptzip.check(built.base, built.base, built.adapter).explanation.startswith("the adapter is not merged")
    adaptzip.merge(built.adapter, merged, tmp_path / "twice")
    assert adaptzip.check(tmp_path / "twice", built.base, built.adapter).explanation == "the adapter is merged twice"
    base = load_file(built.base / "model.safetensors")
    part = rewritten(merged, tmp_path / "part", lambda tensors: tensors | {PROJECTION: base[PROJECTION]})
    report = adaptzip.check(part, built.base, built.adapter)
    assert [tensor.name for tensor in report.tensors if tensor.verdict != "exact"] == [PROJECTION]
    assert row(report, PROJECTION).reason == "unmerged"
    assert report.explanation.startswith(PROJECTION)


def test_a_tiny_update_is_not_taken_for_rounding(built: Built, tmp_path: Path) -> None:
    """Where it is hardly larger than the last place, an unmerged model is within a few units as well."""
    base = rewritten(built.base, tmp_path / "b", lambda tensors: {k: 1 + t.abs() for k, t in tensors.items()})
    tiny = adaptzip.check(base, base, built.adapter, scale=0.01)
    assert tiny.ulps <= 4
    assert tiny.verdict == "no"
    assert tiny.explanation.startswith("the adapter is not merged")


def test_one_number(built: Built, merged: Path, tmp_path: Path) -> None:
    def changed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors[PROJECTION][3, 5] += 1
        return tensors

    report = adaptzip.check(rewritten(merged, tmp_path / "m", changed), built.base, built.adapter)
    assert [tensor.name for tensor in report.tensors if tensor.verdict != "exact"] == [PROJECTION]
    found = row(report, PROJECTION)
    assert (found.differing, found.reason) == (1, "altered")
    assert "[3, 5]" in found.why


def test_the_last_place_of_one_number(built: Built, merged: Path, tmp_path: Path) -> None:
    def nudged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        largest = tensors[PROJECTION].abs().argmax()
        tensors[PROJECTION].view(-1).view(torch.int16)[largest] ^= 1
        return tensors

    folder = rewritten(merged, tmp_path / "m", nudged)
    report = adaptzip.check(folder, built.base, built.adapter)
    assert (report.verdict, report.ulps, report.rule, report.passed) == ("close", 1, None, True)
    assert row(report, PROJECTION).differing == 1
    assert adaptzip.check(folder, built.base, built.adapter, max_ulps=0.5).verdict == "no"


def test_what_the_adapter_leaves_alone(built: Built, merged: Path, tmp_path: Path) -> None:
    def nudged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors["model.embed_tokens.weight"].view(torch.int16)[1, 2] ^= 1
        return tensors

    report = adaptzip.check(rewritten(merged, tmp_path / "m", nudged), built.base, built.adapter)
    assert report.verdict == "no"
    assert row(report, "model.embed_tokens.weight").why.endswith("1 of 640 numbers are not the base's")


def test_another_adapter_and_another_base(built: Built, merged: Path, tmp_path: Path) -> None:
    other = adaptzip.check(merged, built.base, other_adapter(built))
    assert other.explanation == "it is a merge of another adapter or of more than these, or none of this base"
    base = rewritten(
        built.base, tmp_path / "b", lambda tensors: {k: t + 0.01 * torch.randn_like(t) for k, t in tensors.items()}
    )
    assert "another base" in adaptzip.check(merged, base, built.adapter).explanation


def test_missing_strange_and_misshapen_tensors(built: Built, merged: Path, tmp_path: Path) -> None:
    def broken(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del tensors["model.norm.weight"]
        embedding = "model.embed_tokens.weight"
        return tensors | {"model.more.weight": torch.ones(2), embedding: tensors[embedding][:-1]}

    report = adaptzip.check(rewritten(merged, tmp_path / "m", broken), built.base, built.adapter)
    assert row(report, "model.norm.weight").reason == "missing"
    assert row(report, "model.more.weight").reason == "unexpected"
    assert row(report, "model.embed_tokens.weight").why == "is [39, 16], expected [40, 16]"


def test_saved_again(built: Built, merged: Path, tmp_path: Path) -> None:
    """In other files, as .bin, and under another prefix."""
    model = tf.AutoModelForCausalLM.from_pretrained(merged, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="8KB")
    sharded = adaptzip.check(tmp_path / "sharded", built.base, built.adapter)
    assert (sharded.verdict, len(sharded.notes)) == ("exact", 1)
    (tmp_path / "bin").mkdir()
    torch.save(load_file(merged / "model.safetensors"), tmp_path / "bin" / "pytorch_model.bin")
    shutil.copy(merged / "config.json", tmp_path / "bin")
    assert adaptzip.check(tmp_path / "bin", built.base, built.adapter).rule == "default"
    renamed = rewritten(merged, tmp_path / "named", lambda t: {f"language_model.{k}": v for k, v in t.items()})
    report = adaptzip.check(renamed, built.base, built.adapter)
    assert report.verdict == "exact"
    assert "other names" in report.notes[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_another_dtype(dtype: torch.dtype, built: Built, merged: Path, tmp_path: Path) -> None:
    kind = str(dtype).removeprefix("torch.")
    after = rewritten(merged, tmp_path / "after", lambda t: {k: v.to(dtype) for k, v in t.items()})
    report = adaptzip.check(after, built.base, built.adapter)
    assert (report.verdict, report.rule) == ("exact", f"default, then {kind}")
    assert f"compared in {kind}" in report.notes[0]
    before = by_peft(built, tmp_path / "before", dtype=dtype)
    assert adaptzip.check(before, built.base, built.adapter).rule == f"default, in {kind}"


def test_several_adapters(built: Built, tmp_path: Path) -> None:
    pair: list[Any] = [built.adapter, other_adapter(built)]
    adaptzip.merge(adaptzip.combine(pair, [0.7, 0.3]), built.base, tmp_path / "sum")
    assert adaptzip.check(tmp_path / "sum", built.base, pair, [0.7, 0.3]).rule == "default"
    assert adaptzip.check(tmp_path / "sum", built.base, pair, [0.3, 0.7]).verdict == "no"
    first = adaptzip.merge(pair[0], built.base, tmp_path / "first").path
    adaptzip.merge(pair[1], first, tmp_path / "second")
    assert adaptzip.check(tmp_path / "second", built.base, pair).rule == "default, in turn"
    with pytest.raises(UsageError, match="2 adapters have 1 weights"):
        adaptzip.check(tmp_path / "sum", built.base, pair, [1.0])


def test_tied_embeddings(tmp_path: Path) -> None:
    built = build(Case(tied_llama, {"target_modules": ["q_proj", "lm_head"]}), tmp_path)
    assert adaptzip.check(tmp_path / "expected", built.base, built.adapter).verdict == "exact"
    adaptzip.merge(built.adapter, built.base, tmp_path / "apart", untie=True)
    assert adaptzip.check(tmp_path / "apart", built.base, built.adapter, untie=True).verdict == "exact"
    tied = adaptzip.check(tmp_path / "apart", built.base, built.adapter)
    assert {tensor.name: tensor.reason for tensor in tied.tensors if tensor.verdict == "no"} == {
        "lm_head.weight": "unexpected",
        "model.embed_tokens.weight": "unmerged",
    }


def test_a_new_head(tmp_path: Path) -> None:
    case = Case(
        bert_encoder,
        {"target_modules": ["query"], "task_type": "TOKEN_CLS"},
        tf.AutoModelForTokenClassification,
        {"num_labels": 5},
    )
    built = build(case, tmp_path)
    report = adaptzip.check(tmp_path / "expected", built.base, built.adapter)
    assert report.verdict == "exact"
    assert {tensor.name for tensor in report.tensors if tensor.kind == "extra"} == {
        "classifier.weight",
        "classifier.bias",
    }
    assert report.left_out
    assert all("pooler" in name for name in report.left_out)

    def without(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name != "classifier.bias"}

    headless = adaptzip.check(
        rewritten(tmp_path / "expected", tmp_path / "headless", without), built.base, built.adapter
    )
    assert headless.explanation.startswith("classifier.bias: is not in the merged model")


def test_experts_that_are_stacked_otherwise(tmp_path: Path) -> None:
    built = build(Case(mixtral, {"target_modules": ["q_proj"], "target_parameters": EXPERTS}), tmp_path)

    def stacked(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        names = [name for name in tensors if ".experts." in name]
        folders = {name.partition(".experts.")[0] for name in names}
        made = {name: tensor for name, tensor in tensors.items() if name not in names}
        for folder in folders:
            here = folder.replace("block_sparse_moe", "mlp")
            w1, w2, w3 = (
                [tensors[f"{folder}.experts.{i}.{part}.weight"] for i in range(3)] for part in ("w1", "w2", "w3")
            )
            made[f"{here}.experts.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(w1, w3, strict=True)])
            made[f"{here}.experts.down_proj"] = torch.stack(w2)
        return made

    base = rewritten(built.base, tmp_path / "stacked base", stacked)
    merged = rewritten(tmp_path / "expected", tmp_path / "stacked merged", stacked)
    for one, other in ((merged, built.base), (tmp_path / "expected", base), (merged, base)):
        report = adaptzip.check(one, other, built.adapter)
        assert (report.verdict, report.explanation) == ("exact", ""), (one, other)


def test_what_config_json_says(built: Built, merged: Path, tmp_path: Path) -> None:
    shutil.copytree(merged, tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"rms_norm_eps": 0.5, "mine": 1, "transformers_version": "0"}))
    report = adaptzip.check(tmp_path / "m", built.base, built.adapter)
    assert report.verdict == "exact"
    assert report.config == (
        "config.json has mine = 1, which the base's lacks",
        "config.json: rms_norm_eps is 0.5, expected 1e-06",
    )


def test_numbers_that_are_none(built: Built, merged: Path, tmp_path: Path) -> None:
    def broken(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors[PROJECTION][0, 0] = torch.nan
        return tensors

    report = adaptzip.check(rewritten(merged, tmp_path / "m", broken), built.base, built.adapter)
    assert report.ulps == float("inf")
    assert row(report, PROJECTION).reason == "altered"


def test_no_model(built: Built, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="holds an adapter"):
        adaptzip.check(built.adapter, built.base, built.adapter)
