"""A model that refuses an adapter is as it was, whatever PEFT has done to it; merging refuses what `merge` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel
from torch import nn

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import AdaptzipError, AdaptzipWarning, BaseModelError, CheckFailedError, RefusedError, UsageError
from tests.cases.merge_cases import Case, bert, build, llama

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
HEAD = Case(bert, {"target_modules": ["query"], "task_type": "SEQ_CLS"})


def state(model: nn.Module) -> dict[str, Any]:
    """All that can be told of a model."""
    return {
        "tensors": {key: (id(tensor), tensor.clone()) for key, tensor in model.state_dict(keep_vars=True).items()},
        "types": {name: type(module) for name, module in model.named_modules()},
        "flags": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "adapters": sorted(getattr(model, "peft_config", None) or ()),
    }


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    after = state(model)
    tensors, others = before.pop("tensors"), after.pop("tensors")
    assert after == before
    assert tensors.keys() == others.keys()
    for name, (place, tensor) in tensors.items():
        assert others[name][0] == place
        assert torch.equal(others[name][1], tensor), name


def refuses(model: nn.Module, source: Any, kind: type[AdaptzipError], match: str, **more: Any) -> AdaptzipError:
    before = state(model)
    with pytest.raises(kind, match=match) as caught:
        adaptzip.load_into(model, source, **more)
    assert_untouched(model, before)
    return caught.value


def test_a_head_of_another_size(tmp_path: Path) -> None:
    built = build(HEAD, tmp_path)
    config = tf.AutoConfig.from_pretrained(built.base)
    labels = config.num_labels
    other = type(bert()).from_pretrained(built.base, num_labels=labels + 3, ignore_mismatched_sizes=True)
    error = refuses(
        other, built.adapter, RefusedError, rf"is \[{labels + 3}.*\] in the model and \[{labels}.*\] in the"
    )
    assert "num_labels" in str(error.hint)


def test_a_model_below_the_one_that_was_trained(tmp_path: Path) -> None:
    built = build(HEAD, tmp_path)
    model = tf.BertModel(tf.AutoConfig.from_pretrained(built.base))
    refuses(model, built.adapter, CheckFailedError, "PEFT found no place")


@pytest.mark.parametrize("wrapped", [False, True])
def test_names_that_layers_have(wrapped: bool, tmp_path: Path) -> None:
    built = build(Case(llama, {"target_modules": ["q_proj"]}), tmp_path)
    model: nn.Module = llama()
    if wrapped:
        model = PeftModel.from_pretrained(model, built.adapter, adapter_name="first")
    refuses(model, built.adapter, AdaptzipError, "", name="base_layer")
    adaptzip.load_into(model, built.adapter, name="second")


def test_merging_adds_no_bias() -> None:
    model = llama()
    before = state(model)
    module = LoraFactors(torch.ones(1, 16), torch.ones(16, 1), bias=torch.ones(16))
    with pytest.raises(BaseModelError, match="has no bias"):
        adaptzip.merge_into(model, Adapter({"model.layers.0.self_attn.q_proj": module}))
    assert_untouched(model, before)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_merging_takes_finite_numbers(scale: float) -> None:
    model = llama()
    before = state(model)
    module = LoraFactors(torch.ones(1, 16), torch.ones(16, 1))
    with pytest.raises(UsageError, match="finite"):
        adaptzip.merge_into(model, Adapter({"model.layers.0.self_attn.q_proj": module}), scale=scale)
    broken = LoraFactors(torch.full((1, 16), scale), torch.ones(16, 1))
    with pytest.raises(AdaptzipError):
        adaptzip.merge_into(model, Adapter({"model.layers.0.self_attn.q_proj": broken}))
    assert_untouched(model, before)


def _tied() -> Any:
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    return tf.LlamaForCausalLM(config)


def test_merging_warns_of_layers_that_share_a_weight(tmp_path: Path) -> None:
    built = build(Case(_tied, {"target_modules": ["q_proj", "embed_tokens"]}), tmp_path)
    with pytest.warns(AdaptzipWarning, match="lm_head shares a weight that is updated"):
        adaptzip.merge_into(_tied(), built.adapter)


def test_updates_of_a_shared_weight_are_added_in_pefts_order(tmp_path: Path) -> None:
    case = Case(_tied, {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True, "r": 4})
    built = build(case, tmp_path)
    adaptzip.compress(built.adapter, tmp_path / "x.adz", max_error=0.1)
    adaptzip.export(tmp_path / "x.adz", tmp_path / "x")
    base = type(_tied())
    expected = PeftModel.from_pretrained(base.from_pretrained(built.base), tmp_path / "x").merge_and_unload()
    model = base.from_pretrained(built.base)
    adaptzip.merge_into(model, tmp_path / "x.adz")
    for (name, ours), theirs in zip(model.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
