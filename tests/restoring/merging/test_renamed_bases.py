"""Adapters and bases of models whose parts were renamed, moved, stacked or taken apart, under each of their names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.errors import RefusedError
from adaptzip.reports.merged import check as check_merged
from adaptzip.restoring.merging import merge
from tests.cases.merge_cases import gpt_oss, tensors_of
from tests.cases.renamed_models import MIXTURES, SEEING, Mixture, granite_moe, renamed
from tests.cases.tiny_peft import randomise

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
STACKS = {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
RANK, EXPERTS, HIDDEN = 4, 3, 16


class Model:
    """A model's base folders, and what transformers makes of one and PEFT merges into it.

    Attributes:
        path: where all of it is: `files` as transformers saves it, `memory` with the names that it has there.
        memory: the latter's tensors.
    """

    def __init__(self, make: Any, path: Path) -> None:
        tf.set_seed(0)
        model = make()
        self.path, self.kind = path, type(model)
        model.save_pretrained(path / "files")
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        self.memory = {k: t.clone() for k, t in model.state_dict().items() if not (tied and k == "lm_head.weight")}
        self.write("memory", self.memory)

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> Path:
        """A base of the same configuration with other tensors."""
        folder = self.path / name
        shutil.copytree(self.path / "files", folder)
        save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
        return folder

    def load(self, folder: Path) -> dict[str, Tensor]:
        """The tensors of a folder's model in memory, all of which must be in its files."""
        model, told = self.kind.from_pretrained(folder, output_loading_info=True)
        assert not told["missing_keys"]
        assert not told["unexpected_keys"]
        return {key: tensor.clone() for key, tensor in model.state_dict().items()}

    def train(self, name: str, **config: Any) -> Path:
        tf.set_seed(1)
        tuned = get_peft_model(self.kind.from_pretrained(self.path / "memory"), LoraConfig(r=RANK, **config))
        randomise(tuned)
        tuned.save_pretrained(self.path / name, save_embedding_layers=False)
        return self.path / name

    def by_peft(self, adapter: Path) -> dict[str, Tensor]:
        model = self.kind.from_pretrained(self.path / "memory")
        return dict(PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict())


def other_keys(adapter: Path, name: str, tensors: Mapping[str, Tensor], **config: Any) -> Path:
    """The same adapter with other tensors and words of its configuration."""
    folder = adapter.parent / name
    shutil.copytree(adapter, folder)
    save_file(dict(tensors), folder / WEIGHTS, {"format": "pt"})
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def check(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], before: Mapping[str, Tensor], least: int
) -> None:
    """Fail unless all tensors are the same bit for bit, and so many differ from what they were."""
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert sum(not torch.equal(found[name], before[name]) for name in before) >= least


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes each model once."""
    return cache(lambda make: Model(make, tmp_path_factory.mktemp(make.__name__)))


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:The following .*_pattern keys:RuntimeWarning")


@pytest.mark.parametrize(
    ("name", "trained"),
    [("llava", "head"), ("paligemma", "tokens"), ("gemma3", "head"), ("gemma3", "tokens"), ("qwen2_vl", "head")],
)
def test_towers_under_the_names_of_every_age(name: str, trained: str, made: Any, tmp_path: Path) -> None:
    case = SEEING[name]
    model: Model = made(case.make)
    extra = {"modules_to_save": ["lm_head"]} if trained == "head" else {"trainable_token_indices": [1, 5]}
    newest = model.train(f"{trained}-new", target_modules="all-linear", **extra)
    expected, tensors = model.by_peft(newest), load_file(newest / WEIGHTS)
    adapters, folders = [newest], [model.path / "files", model.path / "memory"]
    for number, prefixes in enumerate(case.earlier):
        adapters.append(other_keys(newest, f"{trained}-{number}", renamed(tensors, prefixes, PREFIX)))
        folders.append(model.write(f"{trained}-base-{number}", renamed(model.memory, prefixes)))
    for base in folders:
        for adapter in adapters:
            merge(adapter, base, tmp_path / "ours", force=True)
            check(model.load(tmp_path / "ours"), expected, model.memory, 12)


def bases(case: Mixture, model: Model, name: str) -> Iterator[Path]:
    """The base as transformers saves it, as it is in memory, and where files have its experts so, turned."""
    yield model.path / "files"
    yield model.path / "memory"
    if case.turned:
        turned = {k: t.transpose(1, 2).contiguous() if ".experts." in k else t for k, t in model.memory.items()}
        yield model.write(f"{name}-turned", turned)


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_that_the_adapter_stacks(name: str, made: Any, tmp_path: Path) -> None:
    model: Model = made(MIXTURES[name].make)
    adapter = model.train("stacked", target_modules=["o_proj"], **STACKS)
    for base in bases(MIXTURES[name], model, "stacked"):
        merge(adapter, base, tmp_path / "ours", force=True)
        check(model.load(tmp_path / "ours"), model.by_peft(adapter), model.memory, 3)


def apart(case: Mixture, model: Model) -> Path:
    """An adapter that has each expert's projections as modules of their own."""
    generator, tensors, (gate, up, down) = torch.Generator().manual_seed(0), {}, case.parts
    for expert in range(EXPERTS):
        for part, (out, width) in {
            gate: (case.width, HIDDEN), up: (case.width, HIDDEN), down: (HIDDEN, case.width)
        }.items():  # fmt: skip
            key = f"{PREFIX}{case.place}.{expert}.{part}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(RANK, width, generator=generator)
            tensors[f"{key}.lora_B.weight"] = torch.randn(out, RANK, generator=generator)
    adapter = model.train("plain", target_modules=["o_proj"])
    tensors |= load_file(adapter / WEIGHTS)
    config = {"target_modules": ["o_proj", *case.parts], "lora_alpha": 2 * RANK}
    return other_keys(adapter, "apart", tensors, **config)


def updated(case: Mixture, model: Model, adapter: Path) -> dict[str, Tensor]:
    """The model with each expert's update added in the place that its projection has in the stack."""
    factors, found = load_file(adapter / WEIGHTS), {key: tensor.clone() for key, tensor in model.memory.items()}
    (stack,) = (key for key in found if key.endswith("experts.gate_up_proj"))
    for expert in range(EXPERTS):
        gate, up, down = (
            2 * factors[f"{key}.lora_B.weight"] @ factors[f"{key}.lora_A.weight"]
            for key in (f"{PREFIX}{case.place}.{expert}.{part}" for part in case.parts)
        )
        for key, update in ((stack, torch.cat([gate, up])), (stack.replace("gate_up", "down"), down)):
            found[key][expert] += update if update.shape == found[key][expert].shape else update.T
    return found


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_that_the_adapter_has_apart(name: str, made: Any, tmp_path: Path) -> None:
    case = MIXTURES[name]
    model: Model = made(case.make)
    adapter = apart(case, model)
    expected = updated(case, model, adapter)
    (attention,) = (key for key in expected if key.endswith("o_proj.weight"))
    theirs = model.by_peft(adapter)
    expected[attention] = theirs[attention]
    if case.converted:
        torch.testing.assert_close(theirs, expected)
        expected = theirs
    for base in bases(case, model, "apart"):
        merge(adapter, base, tmp_path / "ours", force=True)
        found = model.load(tmp_path / "ours")
        assert sum(not torch.equal(found[key], tensor) for key, tensor in model.memory.items()) == 3
        torch.testing.assert_close(found, expected)


def taken_apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Llama 4's stacks as a linear layer for each expert's projection, (out, in)."""
    found = {}
    for name, tensor in tensors.items():
        place, _, stack = name.rpartition(".")
        parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(stack)
        if parts is None:
            found[name] = tensor
            continue
        for expert, weight in enumerate(tensor):
            for part, half in zip(parts, weight.chunk(len(parts), dim=1), strict=True):
                found[f"{place}.{expert}.{part}.weight"] = half.T.contiguous()
    return found


def test_llama_4_with_its_experts_apart(made: Any, tmp_path: Path) -> None:
    model: Model = made(MIXTURES["llama4"].make)
    base = model.write("linear", taken_apart(model.memory))
    stacked = model.train("for-linear", target_modules=["o_proj"], **STACKS)
    merge(stacked, base, tmp_path / "stacked")
    check(tensors_of(tmp_path / "stacked"), taken_apart(model.by_peft(stacked)), tensors_of(base), 1 + 3 * EXPERTS)
    merge(stacked, model.path / "memory", tmp_path / "other")
    assert check_merged(tmp_path / "other", base, stacked).verdict == "exact"
    assert check_merged(tmp_path / "stacked", model.path / "memory", stacked).verdict == "exact"


def test_granite_moe_by_the_parameters_that_transformers_4_had(made: Any, tmp_path: Path) -> None:
    model: Model = made(granite_moe)
    adapter = model.train("new", target_modules=["o_proj"], **STACKS)
    old = {
        key.replace("experts.base_layer.", "input_linear.").replace("experts.lora", "output_linear.lora"): tensor
        for key, tensor in load_file(adapter / WEIGHTS).items()
    }
    targets = ["input_linear.weight", "output_linear.weight"]
    earlier = other_keys(adapter, "old", old, target_parameters=targets)
    for base in (model.path / "files", model.path / "memory"):
        for source in (adapter, earlier):
            merge(source, base, tmp_path / "ours", force=True)
            check(model.load(tmp_path / "ours"), model.by_peft(adapter), model.memory, 3)


def test_projections_by_turns_are_refused_apart(made: Any, tmp_path: Path) -> None:
    model: Model = made(gpt_oss)
    base = model.write("linear", taken_apart({k: t for k, t in model.memory.items() if not k.endswith("bias")}))
    adapter = model.train("stacked", target_modules=["o_proj"], **STACKS)
    with pytest.raises(
        RefusedError, match=r"gate_proj.weight is a projection of its own, the adapter fuses .*by turns"
    ):
        merge(adapter, base, tmp_path / "ours")
