"""VeRA and MiSS as PEFT saves them, whose widths are the base model's, and convolutions flattened into matrices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, MissConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor

import adaptzip
from adaptzip.checkpoints import Checkpoint
from adaptzip.checkpoints._form import read_by
from adaptzip.checkpoints._registry import readers
from adaptzip.errors import AdaptzipWarning, BaseModelError, CheckpointError, RefusedError
from adaptzip.restoring.exporting import export
from adaptzip.restoring.merging import merge
from adaptzip.restoring.reading import read
from tests.cases import peft_kin, tiny_peft
from tests.cases.peft_kin import MODELS, Make, agree

KINDS: dict[str, tuple[Make, dict[str, Any], list[str]]] = {
    "vera": (VeraConfig, {"r": 5}, ["llama", "bert"]),
    "vera-biases": (VeraConfig, {"r": 3, "bias": "vera_only"}, ["bert"]),
    "vera-turned": (VeraConfig, {"r": 5, "fan_in_fan_out": True}, ["gpt2"]),
    "miss": (MissConfig, {"r": 4}, ["llama", "bert"]),
    "miss-cut": (MissConfig, {"r": 5, "init_weights": False}, ["llama", "bert"]),
    "miss-mini": (MissConfig, {"r": 3, "mini_r": 8, "init_weights": "mini"}, ["llama", "bert"]),
    "miss-bat": (MissConfig, {"r": 4, "init_weights": "bat"}, ["llama", "bert"]),
    "miss-biases": (MissConfig, {"r": 2, "bias": "MiSS_only"}, ["bert"]),
}
CASES = [(kind, model) for kind, (_, _, models) in KINDS.items() for model in models]
Q = "base_model.model.model.layers.0.self_attn.q_proj"


def saved(kind: str, name: str, folder: Path) -> None:
    make, fields, _ = KINDS[kind]
    peft_kin.saved(make, fields, name, folder)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_merges_to_the_weights_of_peft(kind: str, name: str, tmp_path: Path) -> None:
    saved(kind, name, tmp_path)
    theirs = tiny_peft.merged_by_peft(MODELS[name][0](), tmp_path / "adapter")
    found = read(tmp_path / "adapter", base=tmp_path / "base")
    assert found.meta.dialect == f"peft-{kind.partition('-')[0]}"
    merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged")
    agree(load_file(tmp_path / "merged" / "model.safetensors"), theirs)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_goes_through_a_file_into_a_plain_lora(kind: str, name: str, tmp_path: Path) -> None:
    saved(kind, name, tmp_path)
    theirs = tiny_peft.merged_by_peft(MODELS[name][0](), tmp_path / "adapter")
    adaptzip.compress(tmp_path / "adapter", tmp_path / "a.adz", lossless=True, base=tmp_path / "base")
    export(tmp_path / "a.adz", tmp_path / "plain", as_="peft")
    ours = tiny_peft.merged_by_peft(MODELS[name][0](), tmp_path / "plain")
    assert ours.keys() == theirs.keys()
    agree(ours, theirs)


@pytest.mark.parametrize(
    ("kind", "why"),
    [("vera", "to tell how many inputs each module has"), ("miss", "to tell how large the weights are")],
)
def test_without_the_base_it_is_refused(kind: str, why: str, tmp_path: Path) -> None:
    saved(kind, "llama", tmp_path)
    with pytest.raises(RefusedError, match=f"its base model is needed {why}") as caught:
        read(tmp_path / "adapter")
    assert caught.value.hint == "add `base=DIR`"


def test_another_base_is_named(tmp_path: Path) -> None:
    saved("vera", "llama", tmp_path)
    tiny_peft.llama(hidden_size=32).save_pretrained(tmp_path / "wide")
    tiny_peft.bert().save_pretrained(tmp_path / "bert")
    with pytest.raises(CheckpointError, match="but its base weight has 32 outputs and 24 inputs"):
        read(tmp_path / "adapter", base=tmp_path / "wide")
    with pytest.raises(BaseModelError, match="lacks 6 of the adapter's 6 modules"):
        read(tmp_path / "adapter", base=tmp_path / "bert")


def test_the_matrices_of_one_module_alone_are_as_wide_as_it_is(tmp_path: Path) -> None:
    base = tiny_peft.llama()
    base.save_pretrained(tmp_path / "base")
    tuned = get_peft_model(base, VeraConfig(r=3, target_modules=["layers.1.mlp.down_proj"]))
    tiny_peft.randomise(tuned)
    tuned.save_pretrained(tmp_path / "adapter")
    alone, beside = read(tmp_path / "adapter"), read(tmp_path / "adapter", base=tmp_path / "base")
    name = "model.layers.1.mlp.down_proj"
    assert alone.modules[name].shape == (16, 24)
    assert torch.equal(alone.modules[name].delta(), beside.modules[name].delta())


@pytest.mark.filterwarnings("ignore:Specified to not")
def test_matrices_that_are_not_in_the_file_are_drawn_as_peft_draws_them(tmp_path: Path) -> None:
    peft_kin.saved(VeraConfig, {"r": 5, "save_projection": False, "projection_prng_key": 3}, "llama", tmp_path)
    theirs = tiny_peft.merged_by_peft(tiny_peft.llama(), tmp_path / "adapter", allow=("Specified to not",))
    with pytest.warns(AdaptzipWarning, match="are drawn from projection_prng_key 3"):
        merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged")
    agree(load_file(tmp_path / "merged" / "model.safetensors"), theirs)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("vera", lambda c, t: c.update(r=4), r"expected lambda_b \(out,\) and lambda_d \(4,\)"),
        ("vera", lambda c, t: t.pop("base_model.vera_B"), "has base_model.vera_A but no base_model.vera_B"),
        ("vera", lambda c, t: t.update({"base_model.vera_A": torch.ones(4, 24)}), r"expected \(5, in\) and \(out, 5\)"),
        ("vera", lambda c, t: t.update({"base_model.vera_A": torch.ones(5, 9)}), "has 16 outputs and 24 inputs"),
        ("vera", lambda c, t: t.update({"base_model.vera_A": torch.full((5, 24), torch.nan)}), "holds NaN"),
        ("vera", lambda c, t: t.pop(f"{Q}.vera_lambda_d"), "but no vera_lambda_d"),
        ("vera", lambda c, t: t.update({"base_model.vera_C": torch.ones(1)}), "has no meaning in PEFT's VeRA"),
        ("miss", lambda c, t: c.update(r=5), r"block \[4, 16\], expected \[5, 16\] for rank 5 and a base weight"),
        ("miss", lambda c, t: c.update(init_weights="new"), "init_weights is 'new', expected true, false"),
        ("miss", lambda c, t: c.update(init_weights="mini", mini_r=8), r"expected \[4, 8\]"),
        ("miss", lambda c, t: c.update(init_weights="bat"), r"expected \[4, 4, 4\]"),
        ("miss-mini", lambda c, t: c.update(mini_r=3), r"expected \[3, 3\]"),
        ("miss-mini", lambda c, t: t.update({f"{Q}.miss_block": torch.ones(3, 5)}) or c.update(mini_r=5), "expected"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(kind: str, change: tiny_peft.Change, message: str, tmp_path: Path) -> None:
    saved(kind, "llama", tmp_path)
    tiny_peft.changed(tmp_path / "adapter", change)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "adapter", base=tmp_path / "base")


FLAT: dict[str, tuple[Make, dict[str, Any]]] = {
    "loha": (LoHaConfig, {"r": 2, "alpha": 3}),
    "lokr": (LoKrConfig, {"r": 1, "alpha": 3}),
}


class StoredShapes:
    """A base model that tells shapes alone."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.names = list(tensors)
        self._tensors = tensors

    def named_by(self, modules: Any) -> StoredShapes:
        return self

    def shape(self, name: str) -> tuple[int, ...] | None:
        return tuple(self._tensors[name].shape) if name in self._tensors else None

    def read(self, name: str) -> Tensor | None:
        return self._tensors.get(name)


@pytest.mark.parametrize("kind", FLAT)
def test_the_kernels_of_flat_convolutions_are_the_bases(kind: str, tmp_path: Path) -> None:
    make, fields = FLAT[kind]
    names = ["conv1", "conv2", "grouped", "lin"]
    tuned = get_peft_model(tiny_peft.layers(), make(target_modules=names, **fields))
    tiny_peft.randomise(tuned)
    tuned.save_pretrained(tmp_path / "adapter")
    theirs, before = tiny_peft.merged_by_peft(tiny_peft.layers(), tmp_path / "adapter"), tiny_peft.layers().state_dict()
    alone = read(tmp_path / "adapter")
    assert {module.layout for module in alone.modules.values()} == {"linear"}
    found = _beside(tmp_path / "adapter", f"peft-{kind}", before)
    assert {name: module.kernel for name, module in found.modules.items()} == {
        "conv1": (3,),
        "conv2": (3, 2),
        "grouped": (3, 3),
        "lin": (),
    }
    for name, module in found.modules.items():
        change = theirs[f"{name}.weight"] - before[f"{name}.weight"]
        torch.testing.assert_close(module.weight_delta(), change, atol=1e-5, rtol=1e-5, msg=name)
    wrong = {key: tensor[..., :1] for key, tensor in before.items()}
    with pytest.raises(CheckpointError, match=r"module conv1 has an update \[6, 24\], but the base's weight is \[6, 8"):
        _beside(tmp_path / "adapter", f"peft-{kind}", wrong)


def _beside(folder: Path, name: str, tensors: dict[str, Tensor]) -> adaptzip.Adapter:
    """The adapter as read beside a base of these tensors."""
    weights = folder / "adapter_model.safetensors"
    config = json.loads((folder / "adapter_config.json").read_text())
    source = Checkpoint(folder, weights, load_file(weights), {}, config=config, base=StoredShapes(tensors))
    return read_by(readers()[name], source)
