"""Keys with the names of wrappers in them, or without PEFT's prefix: the adapter that PEFT would have saved is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    DeloraConfig,
    GraloraConfig,
    LoHaConfig,
    LoKrConfig,
    MissConfig,
    PeftModel,
    TinyLoraConfig,
    UniLoraConfig,
    VBLoRAConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file

import adaptzip
from adaptzip.errors import AdaptzipError, AdaptzipWarning, CheckpointError, RefusedError, UsageError
from adaptzip.restoring.reading import read
from tests.cases import peft_kin
from tests.cases.peft_kin import Make
from tests.cases.tiny_peft import gpt2, llama, merged_by_peft, randomise, train

pytestmark = pytest.mark.filterwarnings("ignore:.*keys are not as PEFT saves them")
PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"

SPELLINGS: dict[str, Callable[[str], str]] = {
    "wrapped whole": lambda key: "module." + key,
    "wrapped twice": lambda key: "_forward_module.module." + key,
    "compiled": lambda key: "_orig_mod." + key,
    "compiled inside": lambda key: key.replace(PREFIX, PREFIX + "_orig_mod."),
    "compiled layers": lambda key: key.replace(".self_attn", "._orig_mod.self_attn"),
    "fsdp": lambda key: key.replace(".layers.", "._fsdp_wrapped_module.layers."),
    "checkpointed": lambda key: key.replace(".self_attn", "._checkpoint_wrapped_module.self_attn"),
    "doubled prefix": lambda key: PREFIX + key,
    "half a prefix": lambda key: key.removeprefix("base_model."),
    "no prefix": lambda key: key.removeprefix(PREFIX),
    "named": lambda key: key.replace("_A.weight", "_A.default.weight").replace("_B.weight", "_B.default.weight"),
    "all at once": lambda key: "module." + PREFIX + key.replace("_A.w", "_A.x.w").replace("_B.w", "_B.x.w"),
}


def respell(folder: Path, spell: Callable[[str], str]) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({spell(key): tensor for key, tensor in tensors.items()}, folder / WEIGHTS)
    assert load_file(folder / WEIGHTS).keys() != tensors.keys()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_the_same_adapter(tmp_path: Path, spelling: str) -> None:
    folder, base = tmp_path / "a", llama()
    base.save_pretrained(tmp_path / "base")
    trained = train(base, folder, r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    expected = read(folder)
    respell(folder, SPELLINGS[spelling])
    with pytest.warns(AdaptzipWarning, match=r"\d of \d keys are not as PEFT saves them: .* is read as base_model"):
        adapter = read(folder)
    assert list(adapter.modules) == list(expected.modules)
    assert list(adapter.extras) == list(expected.extras)
    adaptzip.merge(folder, tmp_path / "base", tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.equal(merged[key], trained.merged[key]) for key in merged)
    adaptzip.compress(folder, tmp_path / "a.adz", lossless=True)
    adaptzip.export(tmp_path / "a.adz", tmp_path / "out")
    loaded = merged_by_peft(llama(), tmp_path / "out")
    assert all(torch.equal(loaded[key], trained.merged[key]) for key in merged)


@pytest.mark.parametrize("spelling", ["half a prefix", "no prefix"])
def test_a_backbone_of_another_name_is_told_from_the_prefix(tmp_path: Path, spelling: str) -> None:
    train(gpt2(), tmp_path, r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    expected = list(read(tmp_path).modules)
    respell(tmp_path, SPELLINGS[spelling])
    assert list(read(tmp_path).modules) == expected


KIN: dict[str, tuple[Make, dict[str, Any]]] = {
    "adalora": (AdaLoraConfig, {"init_r": 4, "total_step": 10}),
    "delora": (DeloraConfig, {"r": 4}),
    "gralora": (GraloraConfig, {"r": 4, "hybrid_r": 2}),
    "loha": (LoHaConfig, {"r": 2}),
    "lokr": (LoKrConfig, {"r": 1}),
    "miss": (MissConfig, {"r": 4}),
    "tinylora": (TinyLoraConfig, {"r": 2, "u": 3}),
    "unilora": (UniLoraConfig, {"r": 3, "theta_d_length": 50, "save_indices": True}),
    "vera": (VeraConfig, {"r": 3}),
}
OWN = re.compile(r"\.(lora_[ABE]|(delora|gralora|hada|lokr|miss|tinylora|unilora|vera)_[A-Za-z0-9_]+)")


def named(key: str) -> str:
    """With the adapter's name where it stands in memory."""
    return OWN.sub(r".\1.default", key, count=1)


@pytest.mark.parametrize("spell", [named, SPELLINGS["compiled layers"], SPELLINGS["wrapped whole"]])
@pytest.mark.parametrize("kind", KIN)
def test_other_methods_are_read_under_the_same_spellings(
    kind: str, spell: Callable[[str], str], tmp_path: Path
) -> None:
    peft_kin.saved(*KIN[kind], "llama", tmp_path)
    expected = read(tmp_path / "adapter", base=tmp_path / "base")
    respell(tmp_path / "adapter", spell)
    with pytest.warns(AdaptzipWarning, match="keys are not as PEFT saves them"):
        found = read(tmp_path / "adapter", base=tmp_path / "base")
    assert list(found.modules) == list(expected.modules)
    assert all(torch.equal(found.modules[name].delta(), expected.modules[name].delta()) for name in found.modules)


@pytest.mark.parametrize("kind", sorted(KIN.keys() - {"tinylora", "unilora", "vera"}))
def test_the_prefix_of_other_methods_may_be_missing(kind: str, tmp_path: Path) -> None:
    peft_kin.saved(*KIN[kind], "llama", tmp_path)
    expected = read(tmp_path / "adapter", base=tmp_path / "base")
    respell(tmp_path / "adapter", SPELLINGS["no prefix"])
    assert list(read(tmp_path / "adapter", base=tmp_path / "base").modules) == list(expected.modules)


def failure(kind: type[AdaptzipError], folder: Path) -> str:
    with pytest.raises(kind) as caught:
        read(folder)
    return f"{caught.value} | {caught.value.hint}"


def test_two_adapters_under_their_names_are_refused(tmp_path: Path) -> None:
    train(llama(), tmp_path, r=2, target_modules=["q_proj"])
    tensors = load_file(tmp_path / WEIGHTS)
    for first, second in (("x.", "y."), ("x.", "")):
        named = {key.replace("_A.w", f"_A.{name}w").replace("_B.w", f"_B.{name}w"): tensor.clone()
                 for name in (first, second) for key, tensor in tensors.items()}  # fmt: skip
        save_file(named, tmp_path / WEIGHTS)
        message = failure(CheckpointError, tmp_path)
        assert "holds several adapters under their names in the keys: x and" in message
        assert "selected_adapters" in message


def test_two_keys_that_become_one_are_refused(tmp_path: Path) -> None:
    train(llama(), tmp_path, r=2, target_modules=["q_proj"])
    tensors = load_file(tmp_path / WEIGHTS)
    save_file(tensors | {"module." + key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / WEIGHTS)
    assert "mean the same tensor" in failure(CheckpointError, tmp_path)


def test_without_a_configuration_a_missing_prefix_is_named(tmp_path: Path) -> None:
    train(llama(), tmp_path, r=2, target_modules=["q_proj"])
    respell(tmp_path, SPELLINGS["no prefix"])
    (tmp_path / "adapter_config.json").unlink()
    assert "keys lack PEFT's prefix" in failure(RefusedError, tmp_path)


def vblora(folder: Path) -> dict[str, torch.Tensor]:
    model = get_peft_model(llama(), VBLoRAConfig(r=4, target_modules=["q_proj"], num_vectors=20, vector_length=8))
    randomise(model)
    model.save_pretrained(folder)
    return load_file(folder / WEIGHTS)


@pytest.mark.parametrize("spell", [lambda key: "module." + key, lambda key: key + ".default"])
def test_a_vblora_is_read_under_the_same_spellings(tmp_path: Path, spell: Callable[[str], str]) -> None:
    vblora(tmp_path)
    base = llama()
    before = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    merged = PeftModel.from_pretrained(base, tmp_path).merge_and_unload().state_dict()
    respell(tmp_path, spell)
    for name, factors in read(tmp_path).modules.items():
        change = merged[f"{name}.weight"] - before[f"{name}.weight"]
        torch.testing.assert_close(factors.delta(), change, rtol=1e-4, atol=1e-6)


def test_what_a_vblora_lacks_is_named(tmp_path: Path) -> None:
    tensors = vblora(tmp_path)
    save_file({key: tensor for key, tensor in tensors.items() if "bank" not in key}, tmp_path / WEIGHTS)
    assert "is a VB-LoRA without its bank of vectors" in failure(CheckpointError, tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "LORA"}))
    assert "needs its own adapter_config.json" in failure(RefusedError, tmp_path)
    train(llama(), tmp_path / "lora", r=2, target_modules=["q_proj"])
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "VBLORA"}))
    message = failure(RefusedError, tmp_path / "lora")
    assert "peft_type is VBLORA, expected LORA" in message
    assert "belong to different adapters" in message
    assert "save_as_lora" not in message


def alone_with_alphas(folder: Path, prefix: str = PREFIX) -> None:
    """A trained adapter's weights without their configuration, with the alpha of each module."""
    train(llama(), folder, r=2, lora_alpha=6, alpha_pattern={"v_proj": 3}, target_modules=["q_proj", "v_proj"])
    (folder / "adapter_config.json").unlink()
    tensors = load_file(folder / WEIGHTS)
    stems = {key.partition(".lora_")[0] for key in tensors}
    alphas = {f"{stem}.alpha": torch.tensor(3.0 if "v_proj" in stem else 6.0) for stem in stems}
    save_file({key.replace(PREFIX, prefix): tensor for key, tensor in (tensors | alphas).items()}, folder / WEIGHTS)


@pytest.mark.parametrize("prefix", [PREFIX, ""])
def test_a_file_may_bring_the_alphas_of_its_modules(prefix: str, tmp_path: Path) -> None:
    train(
        llama(), tmp_path / "plain", r=2, lora_alpha=6, alpha_pattern={"v_proj": 3}, target_modules=["q_proj", "v_proj"]
    )
    alone_with_alphas(tmp_path / "a", prefix)
    expected, found = read(tmp_path / "plain"), read(tmp_path / "a")
    assert found.meta.dialect == "peft"
    assert list(found.modules) == list(expected.modules)
    assert not found.extras
    assert {name: module.scaling for name, module in found.modules.items()} == {
        name: 1.5 if "v_proj" in name else 3.0 for name in expected.modules
    }
    assert all(torch.equal(found.modules[name].delta(), expected.modules[name].delta()) for name in found.modules)
    adaptzip.export(tmp_path / "a", tmp_path / "out")
    assert all(
        torch.equal(module.delta(), expected.modules[name].delta())
        for name, module in read(tmp_path / "out").modules.items()
    )


V = f"{PREFIX}model.layers.0.self_attn.v_proj.alpha"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(V), f"has no {V}, but the alphas of other modules"),
        (lambda t: t.update({V: torch.ones(2)}), r"v_proj.alpha is \[2\], expected one finite number"),
        (lambda t: t.update({V: torch.tensor(torch.inf)}), "expected one finite number"),
    ],
)
def test_alphas_that_are_wrong_are_named(change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    alone_with_alphas(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path)


def test_no_alpha_is_given_beside_those_of_the_file(tmp_path: Path) -> None:
    alone_with_alphas(tmp_path)
    with pytest.raises(UsageError, match="`alpha=2` was given, but .* has the alphas of its modules"):
        read(tmp_path, alpha=2)
