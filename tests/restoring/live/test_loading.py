"""Adapters on live models: what PEFT makes of a folder, a model makes of what was loaded into it, bit for bit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import BaseModelError, RefusedError, UsageError
from tests.cases.merge_cases import Case, assert_same_tensors, bert, build, gpt2, llama, mixtral, tensors_of
from tests.cases.tiny_peft import randomise

ALL = {"target_modules": "all-linear", "lora_alpha": 6}
CASES = {
    "linear": Case(llama, ALL),
    "rslora patterns": Case(
        llama, {**ALL, "use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 9}}
    ),
    "dora": Case(llama, {**ALL, "use_dora": True}),
    "conv1d": Case(gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "bias": Case(bert, {"target_modules": ["query", "dense"], "lora_bias": True}),
    "head": Case(bert, {"target_modules": ["query"], "task_type": "SEQ_CLS"}),
    "embeddings": Case(llama, {"target_modules": ["q_proj", "embed_tokens"]}),
    "tokens": Case(llama, {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5]}),
    "experts": Case(mixtral, {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj"]}),
}
# PEFT's, of what the cases ask for.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
IDS = torch.tensor([[1, 5, 7, 2]])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def loaded(case: Case, base: Path, dtype: torch.dtype = torch.float32) -> Any:
    kind = type(case.make())
    return kind.from_pretrained(base, dtype=dtype).eval()


@torch.no_grad()
def outputs(model: Any) -> Tensor:
    found: Tensor = model.eval()(input_ids=IDS).logits
    return found


@dtypes
@every
def test_a_model_makes_what_peft_makes_of_the_folder(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    built = build(case, tmp_path, dtype=dtype)
    expected = outputs(PeftModel.from_pretrained(loaded(case, built.base, dtype), built.adapter))
    model = loaded(case, built.base, dtype)
    bare = outputs(model)
    assert not torch.equal(bare, expected)
    report = adaptzip.load_into(model, built.adapter)
    assert report.modules == len(adaptzip.read(built.adapter).modules)
    assert torch.equal(outputs(model), expected)
    model.disable_adapters()
    assert torch.equal(outputs(model), bare)


@every
def test_a_peft_model_takes_another(case: Case, tmp_path: Path) -> None:
    built = build(case, tmp_path)
    first = PeftModel.from_pretrained(loaded(case, built.base), built.adapter)
    before = outputs(first)
    across = bool(case.config.get("fan_in_fan_out"))
    config = LoraConfig(r=2, target_modules=["query", "q_proj", "c_attn"], fan_in_fan_out=across)
    model = get_peft_model(loaded(case, built.base), config)
    randomise(model)
    own = outputs(model)
    adaptzip.load_into(model, built.adapter, name="other")
    assert torch.equal(outputs(model), before)
    model.set_adapter("default")
    assert torch.equal(outputs(model), own)


def test_a_plain_module_takes_one() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(6, 5), nn.Linear(5, 4)
    model = nn.Sequential(first, second)
    factors = LoraFactors(torch.randn(2, 6), torch.randn(5, 2), scaling=0.5)
    inputs = torch.randn(3, 6)
    expected = nn.functional.linear(inputs, first.weight + factors.delta(), first.bias)
    expected = nn.functional.linear(expected, second.weight, second.bias)
    adaptzip.load_into(model, Adapter({"0": factors}))
    assert torch.allclose(model(inputs), expected, atol=1e-5)


def test_a_compressed_adapter_is_loaded_as_its_export(tmp_path: Path) -> None:
    case = CASES["linear"]
    built = build(case, tmp_path)
    small = adaptzip.compress(built.adapter, tmp_path / "small.adz", max_error=0.3, device="cpu")
    adaptzip.export(tmp_path / "small.adz", tmp_path / "export")
    expected = outputs(PeftModel.from_pretrained(loaded(case, built.base), tmp_path / "export"))
    for source in (small, tmp_path / "small.adz", adaptzip.reconstruct(small)):
        model = loaded(case, built.base)
        adaptzip.load_into(model, source)
        assert torch.equal(outputs(model), expected)


def other(built_by: Case, folder: Path) -> Path:
    """Another adapter, of other ranks and scales, on the base of the folder."""
    tf.set_seed(5)
    module = built_by.config["target_modules"][0] if built_by.config["target_modules"] != "all-linear" else "v_proj"
    patterns = {"rank_pattern": {module: 5}, "alpha_pattern": {module: 1}}
    model = get_peft_model(loaded(built_by, folder / "base"), LoraConfig(**{**built_by.config, "r": 3, **patterns}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter))
    model.save_pretrained(folder / "other")
    return folder / "other"


@pytest.mark.parametrize("name", ["linear", "rslora patterns", "dora", "conv1d", "bias"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["in place", "PeftModel"])
def test_one_is_swapped_for_another(name: str, wrapped: bool, tmp_path: Path) -> None:
    case = CASES[name]
    built = build(case, tmp_path)
    second = other(case, tmp_path)
    expected = outputs(PeftModel.from_pretrained(loaded(case, built.base), second))
    first = outputs(PeftModel.from_pretrained(loaded(case, built.base), built.adapter))
    model = loaded(case, built.base)
    if wrapped:
        model = PeftModel.from_pretrained(model, built.adapter, adapter_name="one")
    else:
        adaptzip.load_into(model, built.adapter, name="one")
    layers = sum(1 for _ in model.modules())
    for source, wanted in ((second, expected), (built.adapter, first), (second, expected)):
        report = adaptzip.load_into(model, source, name="one", hotswap=True)
        assert report.swapped
        # Scales are folded into B, so that not every bit is PEFT's.
        torch.testing.assert_close(outputs(model), wanted, rtol=1e-4, atol=1e-4)
    assert sum(1 for _ in model.modules()) == layers


def test_an_adapter_in_memory_stays_as_it_is(tmp_path: Path) -> None:
    """PEFT would make one of a greater rank the model's own tensors, which the next swap writes over."""
    model = llama()
    name = "model.layers.0.self_attn.q_proj"
    adapters = [Adapter({name: LoraFactors(torch.ones(rank, 16), torch.ones(16, rank))}) for rank in (1, 3, 2)]
    adaptzip.load_into(model, adapters[0])
    for adapter in (*adapters, *adapters):
        adaptzip.load_into(model, adapter, hotswap=True)
        for one in adapters:
            assert one.modules[name].A.eq(1).all()
            assert one.modules[name].B.eq(1).all()


def test_what_was_there_before_changes_no_bit() -> None:
    """Factors that are padded with zeros may be added up in another order."""

    def fresh() -> Any:
        tf.set_seed(0)
        return llama()

    sizes = {name: layer.weight.shape for name, layer in fresh().named_modules() if name.endswith("_proj")}
    adapters, alone = [], []
    for rank in (2, 8, 3):
        pairs = {name: (torch.randn(rank, w), torch.randn(out, rank)) for name, (out, w) in sizes.items()}
        adapters.append(Adapter({name: LoraFactors(*pair) for name, pair in pairs.items()}))
        model = fresh()
        adaptzip.load_into(model, adapters[-1])
        alone.append(outputs(model))
    for number in (1, 0, 2, 1, 2, 0):
        adaptzip.load_into(model, adapters[number], hotswap=True)
        assert torch.equal(outputs(model), alone[number])


def test_swapping_leaves_others_alone(tmp_path: Path) -> None:
    case = CASES["linear"]
    built = build(case, tmp_path)
    second = other(case, tmp_path)
    model = loaded(case, built.base)
    adaptzip.load_into(model, built.adapter, name="first")
    adaptzip.load_into(model, built.adapter, name="second")
    adaptzip.load_into(model, second, name="second", hotswap=True)
    model.set_adapter("first")
    expected = outputs(PeftModel.from_pretrained(loaded(case, built.base), built.adapter))
    assert torch.equal(outputs(model), expected)


def test_names_that_peft_confuses_are_refused(tmp_path: Path) -> None:
    """PEFT zeroes whatever has the name of the swapped adapter anywhere in its key."""
    case = CASES["linear"]
    built = build(case, tmp_path)
    model = loaded(case, built.base)
    adaptzip.load_into(model, built.adapter, name="one")
    adaptzip.load_into(model, built.adapter, name="one_more")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UsageError, match="for a part of the adapter 'one', whose name is in it"):
        adaptzip.load_into(model, built.adapter, name="one", hotswap=True)
    assert_same_tensors(model.state_dict(), before)


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    model = llama()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    wide = LoraFactors(torch.ones(1, 99), torch.ones(16, 1))
    for modules, match in (
        ({"model.layers.0.self_attn.q_proj": wide}, r"q_proj is \[16, 16\], the adapter's update \[16, 99\]"),
        ({"model.layers.9.self_attn.q_proj": wide}, "layers.9"),
    ):
        for act in (adaptzip.load_into, adaptzip.merge_into):
            with pytest.raises(BaseModelError, match=match):
                act(model, Adapter(modules))
    assert_same_tensors(model.state_dict(), before)


def test_a_name_is_asked_for_once(tmp_path: Path) -> None:
    case = CASES["linear"]
    built = build(case, tmp_path)
    model = loaded(case, built.base)
    with pytest.raises(UsageError, match="has no adapter called 'default' that could be swapped; it has no adapter"):
        adaptzip.load_into(model, built.adapter, hotswap=True)
    adaptzip.load_into(model, built.adapter)
    with pytest.raises(UsageError, match="has an adapter called 'default' already"):
        adaptzip.load_into(model, built.adapter)
    with pytest.raises(UsageError, match="an adapter can't be called 'a.b' in a model"):
        adaptzip.load_into(model, built.adapter, name="a.b")
    with pytest.raises(UsageError, match="a dict is no model"):
        adaptzip.load_into({}, built.adapter)


def test_extras_and_embeddings_are_not_swapped(tmp_path: Path) -> None:
    for name, match in (("head", "hot-swapping is of updates alone"), ("embeddings", "no linear layer or convolution")):
        built = build(CASES[name], tmp_path / name)
        model = loaded(CASES[name], built.base)
        adaptzip.load_into(model, built.adapter)
        read = adaptzip.read(built.adapter)
        source = read if name == "head" else Adapter(read.modules)
        with pytest.raises(RefusedError, match=match):
            adaptzip.load_into(model, source, hotswap=True)


@dtypes
@every
def test_merging_in_place_makes_what_peft_makes(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    built = build(case, tmp_path, dtype=dtype)
    model = loaded(case, built.base, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adaptzip.merge_into(model, built.adapter)
    model.save_pretrained(tmp_path / "merged")
    assert_same_tensors(tensors_of(tmp_path / "merged"), built.expected)


def test_a_scale_multiplies_updates(tmp_path: Path) -> None:
    built = build(CASES["linear"], tmp_path)
    adaptzip.merge(built.adapter, built.base, tmp_path / "half", scale=0.5)
    model = loaded(CASES["linear"], built.base)
    adaptzip.merge_into(model, built.adapter, scale=0.5)
    assert_same_tensors(dict(model.state_dict()), dict(loaded(CASES["linear"], tmp_path / "half").state_dict()))


def test_merging_wants_a_model_without_adapters(tmp_path: Path) -> None:
    built = build(CASES["linear"], tmp_path)
    model = loaded(CASES["linear"], built.base)
    adaptzip.load_into(model, built.adapter)
    with pytest.raises(RefusedError, match="the model has adapters of PEFT's"):
        adaptzip.merge_into(model, built.adapter)
