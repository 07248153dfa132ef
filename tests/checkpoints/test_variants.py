"""Every variant of a LoRA that PEFT saves: what adaptzip reads is what PEFT merges."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import BdLoraConfig, LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.effects import Effect
from adaptzip.errors import CheckpointError, RefusedError
from adaptzip.restoring.reading import read
from tests.cases.tiny_peft import Trained, bert, gpt2, gpt_oss, layers, llama, mixtral, randomise, train

_QV = ["q_proj", "v_proj"]


def change_by_factors(factors: LoraFactors, base: Tensor) -> Tensor:
    """The change of the base weight, DoRA's rule included: V = W + delta becomes m / |V| V, row by row."""
    updated = base + factors.weight_delta()
    if factors.magnitude is None:
        return updated - base
    turned = factors.layout in ("transposed", "embedding")
    rows = (updated.T if turned else updated).flatten(1)
    scaled = rows * (factors.magnitude / rows.norm(dim=1))[:, None]
    found: Tensor = (scaled.T if turned else scaled.reshape(updated.shape)) - base
    return found


def assert_same_changes(adapter: Adapter, trained: Trained) -> None:
    """Each adapted weight changes as PEFT's does, and all others are extras' or unchanged."""
    explained = set()
    for name, factors in adapter.modules.items():
        weight = f"{name}.weight"
        explained.add(weight)
        torch.testing.assert_close(change_by_factors(factors, trained.base[weight]), trained.change(weight))
        if factors.bias is not None:
            explained.add(f"{name}.bias")
            expected = factors.scaling * factors.bias
            torch.testing.assert_close(trained.change(f"{name}.bias"), expected, atol=1e-6, rtol=1e-5)
    for key, tensor in adapter.extras.items():
        effect = adapter.resolved.extras[key]
        target = effect.tensor
        if effect.role == "replace" and target not in explained:
            explained.add(target)
            torch.testing.assert_close(trained.merged[target], tensor, rtol=0, atol=0)
        if effect.role == "token_rows":
            explained.add(target)
            assert effect.rows is not None
            torch.testing.assert_close(trained.merged[target][list(effect.rows)], tensor, rtol=0, atol=0)
    assert changed(trained) <= explained


def changed(trained: Trained) -> set[str]:
    """The names of the tensors that PEFT's merge changes, a tied copy of the embedding left out."""
    names = {key for key in trained.base if not torch.equal(trained.base[key], trained.merged[key])}
    tied = torch.equal(
        trained.base.get("lm_head.weight", Tensor()), trained.base.get("transformer.wte.weight", Tensor())
    )
    return names - {"lm_head.weight"} if tied else names


LINEAR: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 6},
    "rslora": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "rank pattern": {"r": 4, "lora_alpha": 6, "rank_pattern": {"v_proj": 2, r"1\.self_attn\.q_proj": 3}},
    "alpha pattern": {"r": 4, "lora_alpha": 6, "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 10}},
    "rslora and rank pattern": {"r": 4, "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "rslora and alpha pattern": {"r": 4, "use_rslora": True, "alpha_pattern": {"v_proj": 5}},
    "bias lora_only": {"r": 2, "bias": "lora_only"},
    "bias all": {"r": 2, "bias": "all"},
    "dora": {"r": 2, "use_dora": True},
    "dora with rslora": {"r": 4, "use_dora": True, "use_rslora": True},
    "lora_bias": {"r": 2, "lora_alpha": 6, "lora_bias": True},
    "one layer": {"r": 2, "layers_to_transform": [1]},
    "excluded": {"r": 2, "exclude_modules": ["layers.0.self_attn.q_proj"]},
    "gaussian": {"r": 2, "init_lora_weights": "gaussian"},
    "orthogonal": {"r": 2, "init_lora_weights": "orthogonal"},
    "mica": {"r": 2, "init_lora_weights": "mica"},
    "head": {"r": 2, "modules_to_save": ["lm_head"]},
    "tokens": {"r": 2, "trainable_token_indices": [3, 1, 7]},
    "tokens by name": {"r": 2, "trainable_token_indices": {"embed_tokens": [3, 1]}},
}  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_llama_variant(name: str, tmp_path: Path) -> None:
    trained = train(llama(attention_bias=True), tmp_path, target_modules=_QV, **LINEAR[name])
    adapter = read(tmp_path)
    assert set(adapter.modules) <= {f"model.layers.{n}.self_attn.{m}" for n in (0, 1) for m in _QV}
    assert_same_changes(adapter, trained)


@pytest.mark.parametrize("more", [{}, {"use_dora": True}, {"use_rslora": True}, {"trainable_token_indices": [2]}])
def test_gpt2_conv1d(more: dict[str, Any], tmp_path: Path) -> None:
    more = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, **more}
    trained = train(gpt2(), tmp_path, r=3, **more)
    adapter = read(tmp_path)
    assert {factors.layout for factors in adapter.modules.values()} == {"transposed"}
    assert_same_changes(adapter, trained)


def test_bert_with_head_and_all_biases(tmp_path: Path) -> None:
    trained = train(bert(), tmp_path, r=3, target_modules=["query"], bias="all", task_type="SEQ_CLS")
    adapter = read(tmp_path)
    assert "base_model.model.classifier.weight" in adapter.extras
    assert_same_changes(adapter, trained)


@pytest.mark.parametrize("more", [{}, {"use_dora": True}])
@pytest.mark.parametrize("module", ["emb", "conv1", "conv2", "conv3"])
def test_other_layers(module: str, more: dict[str, Any], tmp_path: Path) -> None:
    trained = train(layers(), tmp_path, r=2, lora_alpha=3, target_modules=[module, "lin"], **more)
    adapter = read(tmp_path)
    assert adapter.modules[module].layout == ("embedding" if module == "emb" else "conv")
    assert_same_changes(adapter, trained)


def test_lora_bias_on_convolutions(tmp_path: Path) -> None:
    trained = train(layers(), tmp_path, r=2, target_modules=["conv2", "lin"], lora_bias=True)
    assert_same_changes(read(tmp_path), trained)


def test_targeted_embedding_keeps_its_base_weight_as_an_extra(tmp_path: Path) -> None:
    trained = train(llama(), tmp_path, r=2, target_modules=["embed_tokens", "lm_head", "q_proj"])
    adapter = read(tmp_path)
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    assert adapter.resolved.extras[key] == Effect("replace", "model.embed_tokens.weight")
    assert torch.equal(adapter.extras[key], trained.base["model.embed_tokens.weight"])
    assert_same_changes(adapter, trained)


def test_layer_replication_keeps_the_replicated_names(tmp_path: Path) -> None:
    """PEFT's merge adds all replicas' updates into the weight they share, so its deltas are compared."""
    replicated = [[0, 2], [1, 2]]
    train(llama(), tmp_path, r=2, target_modules=_QV, layer_replication=replicated)
    wrapped = PeftModel.from_pretrained(llama(), tmp_path)
    modules = read(tmp_path).modules
    assert {name.split(".")[2] for name in modules} == {"0", "1", "2"}
    for name, factors in modules.items():
        expected = wrapped.base_model.model.get_submodule(name).get_delta_weight("default")
        torch.testing.assert_close(factors.weight_delta(), expected)


def test_scale_by_hand(tmp_path: Path) -> None:
    """alpha / r is 6 / 4; with rslora 6 / sqrt(4); the pattern's rank 2 counts under the root as well."""
    train(llama(), tmp_path / "plain", r=4, lora_alpha=6, target_modules=_QV)
    patterns = {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 10}}
    train(llama(), tmp_path / "root", r=4, lora_alpha=6, target_modules=_QV, use_rslora=True, **patterns)
    plain, root = read(tmp_path / "plain").modules, read(tmp_path / "root").modules
    assert {factors.scaling for factors in plain.values()} == {1.5}
    assert root["model.layers.0.self_attn.q_proj"].scaling == 3.0
    assert root["model.layers.1.self_attn.q_proj"].scaling == 5.0
    assert root["model.layers.0.self_attn.v_proj"].scaling == 6 / math.sqrt(2)
    assert root["model.layers.0.self_attn.v_proj"].rank == 2


def test_the_first_pattern_in_the_file_counts(tmp_path: Path) -> None:
    """Both patterns fit layer 1: the first one gives 32 / 4, in the other order 8 / 4."""
    train(llama(), tmp_path, r=4, lora_alpha=4, target_modules=["q_proj"])
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    for patterns, expected in (
        ({"q_proj": 32, ".*1.*q_proj": 8}, 8.0),
        ({".*1.*q_proj": 8, "q_proj": 32}, 2.0),
    ):
        path.write_text(json.dumps({**config, "alpha_pattern": patterns}))
        assert read(tmp_path).modules["model.layers.1.self_attn.q_proj"].scaling == expected
        assert read(tmp_path).modules["model.layers.0.self_attn.q_proj"].scaling == 8.0


@pytest.mark.parametrize("rslora", [False, True])
def test_experts(rslora: bool, tmp_path: Path) -> None:
    targets = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj", "mlp.gate.weight"]
    more = {"target_modules": ["q_proj"], "target_parameters": targets, "use_rslora": rslora}
    trained = train(mixtral(), tmp_path, r=2, lora_alpha=3, **more)
    adapter = read(tmp_path)
    assert sum("experts" in name for name in adapter.modules) == 2 * 2 * 3
    covered = set()
    for name, factors in adapter.modules.items():
        path, bracket, number = name.partition("[")
        weight = path if bracket else f"{name}.weight"
        change = trained.change(weight)
        covered.add(weight)
        if bracket and change.ndim == 3:
            change = change[int(number[:-1])]
        torch.testing.assert_close(factors.weight_delta(), change)
    assert covered == changed(trained)


@pytest.mark.parametrize("target", ["gate_up_proj", "down_proj"])
def test_one_parameter_alone_has_no_infix(target: str, tmp_path: Path) -> None:
    trained = train(mixtral(), tmp_path, r=2, target_modules=[], target_parameters=[f"mlp.experts.{target}"])
    for name, factors in read(tmp_path).modules.items():
        path, _, number = name.partition("[")
        torch.testing.assert_close(factors.weight_delta(), trained.change(path)[int(number[:-1])])


def test_experts_that_lie_transposed(tmp_path: Path) -> None:
    """The file looks alike whichever way the base's experts lie; the update is always (out, in)."""
    targets = ["experts.gate_up_proj", "experts.down_proj"]
    trained = train(gpt_oss(), tmp_path, r=2, target_modules=[], target_parameters=targets)
    for name, factors in read(tmp_path).modules.items():
        path, _, number = name.partition("[")
        torch.testing.assert_close(factors.delta().T, trained.change(path)[int(number[:-1])])


def test_nested_parameters_of_unknown_order_are_refused(tmp_path: Path) -> None:
    train(
        mixtral(),
        tmp_path,
        r=2,
        target_modules=[],
        target_parameters=["experts.down_proj", "experts.gate_up_proj"],
    )
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text()) | {"target_parameters": ["mlp.experts.w1", "mlp.experts.w2"]}
    path.write_text(json.dumps(config))
    with pytest.raises(RefusedError, match=r"cannot tell which of the parameters w1, w2"):
        read(tmp_path)
    path.write_text(json.dumps(config | {"target_parameters": None}))
    with pytest.raises(CheckpointError, match="nested LoRA factors"):
        read(tmp_path)


@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
def test_grouped_convolution_is_refused(tmp_path: Path) -> None:
    get_peft_model(layers(), LoraConfig(r=4, target_modules=["grouped"])).save_pretrained(tmp_path)
    with pytest.raises(RefusedError, match="grouped is a convolution in 4 groups"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"init_lora_weights": "pissa"}, "PiSSA"),
        ({"init_lora_weights": "pissa_niter_4"}, "PiSSA"),
        ({"init_lora_weights": "olora"}, "OLoRA"),
        ({"alora_invocation_tokens": [1, 2], "task_type": "CAUSAL_LM"}, "aLoRA"),
        ({"use_bdlora": BdLoraConfig(["q_proj"], ["v_proj"], nblocks=2)}, "BD-LoRA"),
    ],
)
def test_variants_that_are_no_low_rank_update_are_refused(config: dict[str, Any], named: str, tmp_path: Path) -> None:
    get_peft_model(llama(), LoraConfig(r=4, target_modules=_QV, **config)).save_pretrained(tmp_path)
    with pytest.raises(RefusedError, match=named) as refused:
        read(tmp_path)
    assert refused.value.hint


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights", "ignore:Adapter default was active")
def test_converted_pissa_is_a_plain_lora(tmp_path: Path) -> None:
    model = llama()
    base = {key: value.clone() for key, value in model.state_dict().items()}
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=_QV, init_lora_weights="pissa"))
    wrapped.peft_config["default"].init_lora_weights = True
    wrapped.save_pretrained(tmp_path / "initial")
    wrapped.peft_config["default"].init_lora_weights = "pissa"
    randomise(wrapped)
    wrapped.save_pretrained(tmp_path / "lora", path_initial_model_for_weight_conversion=str(tmp_path / "initial"))
    merged = wrapped.merge_and_unload().state_dict()
    for name, factors in read(tmp_path / "lora").modules.items():
        assert factors.rank == 4
        torch.testing.assert_close(factors.weight_delta(), merged[f"{name}.weight"] - base[f"{name}.weight"])
