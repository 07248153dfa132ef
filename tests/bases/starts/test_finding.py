"""Starts found again in adapters that PEFT made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import adaptzip
from adaptzip.bases.starts.finding import find_start
from adaptzip.bases.starts.found import POPULAR
from adaptzip.bases.starts.generators import Place, whole_numbers
from adaptzip.core.adapter import LoraFactors
from tests.bases.starts.made import Modules, adapted, check_exact, first_values, tiny_llama, trained

ROOT = Path(__file__).parents[3]
MATERIAL = ROOT.parent / "shared" / "material" / "adapters"


def classifier() -> nn.Module:
    config = BertConfig(
        vocab_size=50, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=80, num_labels=5
    )
    model: nn.Module = BertForSequenceClassification(config)
    return model


def convolutions() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 24, 3), nn.Conv2d(24, 16, (1, 5)), nn.Flatten(), nn.Linear(64, 32))


def lora(**options: object) -> LoraConfig:
    return LoraConfig(**{"r": 8, "target_modules": "all-linear", **options})


CASES: dict[str, tuple[Callable[[], nn.Module], LoraConfig, bool]] = {
    "plain": (tiny_llama, lora(), False),
    "after its base": (tiny_llama, lora(), True),
    "a new head": (classifier, lora(target_modules=["query", "value"], modules_to_save=["classifier"]), True),
    "ranks of their own": (tiny_llama, lora(rank_pattern={"q_proj": 4, r"layers\.1\..*up_proj": 16}), False),
    "embeddings": (tiny_llama, lora(target_modules=["embed_tokens", "q_proj", "down_proj"]), False),
    "convolutions": (convolutions, lora(target_modules=["0", "1", "3"]), False),
    "biases": (classifier, lora(target_modules=["query", "dense"], lora_bias=True), False),
    "dora": (tiny_llama, lora(use_dora=True), False),
    "gaussian": (tiny_llama, lora(init_lora_weights="gaussian"), False),
    "gaussian in broken blocks": (tiny_llama, lora(r=5, init_lora_weights="gaussian", modules_to_save=["norm"]), True),
    "gaussian convolutions": (convolutions, lora(target_modules=["0", "1"], init_lora_weights="gaussian"), False),
}


@pytest.mark.parametrize("case", CASES)
def test_every_module_is_found_where_peft_drew_it(case: str) -> None:
    make, config, seeded_before = CASES[case]
    first = first_values(adapted(make, config, 42, seeded_before=seeded_before))
    found = find_start(trained(first))
    assert found is not None
    assert (found.generator, found.seed) == ("normal" if "gaussian" in case else "uniform", 42)
    assert found.places.keys() == first.keys()
    assert all(0.85 < value < 0.97 for value in found.correlations.values())
    check_exact(found, first)


@pytest.fixture(scope="module")
def first() -> Modules:
    return first_values(adapted(tiny_llama, lora(), 3407))


@pytest.mark.parametrize("seed", [0, 3407, 2025, 67280421310721])
def test_popular_seeds_are_found(seed: int) -> None:
    first = first_values(adapted(tiny_llama, lora(target_modules=["q_proj"]), seed))
    found = find_start(trained(first))
    assert found is not None
    assert found.seed == seed % 2**32
    assert found.places.keys() == first.keys()


def test_a_seed_that_is_given_is_found_and_others_are_not() -> None:
    modules = trained(first_values(adapted(tiny_llama, lora(target_modules=["q_proj"]), 987654321)))
    assert 987654321 not in POPULAR
    assert find_start(modules) is None
    found = find_start(modules, seeds=[5, 987654321])
    assert found is not None
    assert found.seed == 987654321
    assert find_start(modules, seeds=[]) is None


def test_starts_further_on_are_found_where_so_many_draws_are_looked_at() -> None:
    torch.manual_seed(7)
    torch.rand(1_500_000)
    modules = trained(first_values(adapted_again()))
    assert find_start(modules, seeds=[7]) is None
    found = find_start(modules, seeds=[7], draws=1 << 21)
    assert found is not None
    assert found.places.keys() == modules.keys()
    assert min(place.offset for place in found.places.values()) > 1_500_000


def adapted_again() -> nn.Module:
    from peft import get_peft_model

    model: nn.Module = get_peft_model(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), lora())
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_scaled_factors_are_found(first: Modules, dtype: torch.dtype) -> None:
    modules = {
        name: replace(one, A=(-3.5 * one.A).to(dtype), B=one.B.to(dtype)) for name, one in trained(first).items()
    }
    found = find_start(modules)
    assert found is not None
    assert found.places.keys() == modules.keys()
    check_exact(found, first)


def test_names_in_another_order_than_the_model_change_nothing(first: Modules) -> None:
    names = sorted(first)
    renamed = dict(zip([f"block.{(5 * k) % len(names)}.x" for k in range(len(names))], first.values(), strict=True))
    found = find_start(trained(renamed))
    assert found is not None
    assert found.places.keys() == renamed.keys()
    check_exact(found, renamed)


def test_modules_that_are_missing_or_unlike_their_start_are_passed_over(first: Modules) -> None:
    modules = trained(first)
    names = sorted(modules)
    for name in names[::4]:
        del modules[name]
    strangers = {name: modules[name] for name in names[1::7] if name in modules}
    for name, one in trained(strangers, by=30).items():
        modules[name] = one
    found = find_start(modules)
    assert found is not None
    assert found.places.keys() == modules.keys() - strangers.keys()
    check_exact(found, first)


def test_a_gap_of_any_size_is_looked_through(first: Modules) -> None:
    modules = trained({name: one for name, one in first.items() if ".1." not in name and "k_proj" not in name})
    found = find_start(modules)
    assert found is not None
    assert found.places.keys() == modules.keys()


def test_one_A_that_modules_share_and_slices_of_one_are_found(first: Modules) -> None:
    modules = trained(first)
    name = "model.layers.1.self_attn.q_proj"
    whole = modules.pop(name)
    modules |= {f"{name}.{part}": replace(whole, B=whole.B * k) for k, part in enumerate("abc", 1)}
    split = modules.pop("model.layers.2.mlp.up_proj")
    modules |= {f"experts.{k}": LoraFactors(split.A[4 * k : 4 * k + 4], split.B[:, :4]) for k in range(2)}
    found = find_start(modules)
    assert found is not None
    assert found.places.keys() == modules.keys()
    assert len({found.places[f"{name}.{part}"] for part in "abc"}) == 1
    assert found.places["experts.1"].offset - found.places["experts.0"].offset == split.A.numel() // 2


@pytest.mark.parametrize("between", ["A alone", "the layer again", "the layer again with its bias"])
def test_recipes_of_other_libraries_are_followed(between: str) -> None:
    torch.manual_seed(1234)
    modules = {}
    for k in range(12):
        if between != "A alone":
            nn.Linear(80, 96, bias="bias" in between)
            nn.Linear(80, 8, bias=False)
            nn.Linear(8, 96, bias=False)
        A = torch.empty(8, 80)
        if between == "A alone":
            nn.init.kaiming_uniform_(A, a=5**0.5)
        else:
            nn.init.normal_(A, std=1 / 8)
        modules[f"{k}"] = LoraFactors(A, torch.zeros(96, 8))
    found = find_start(trained(modules))
    assert found is not None
    assert found.places.keys() == modules.keys()
    check_exact(found, modules)


def test_mlx_keys_are_found() -> None:
    shapes = {f"layers.{k}.{kind}": (8, width) for k in (30, 31) for kind, width in (("q", 96), ("up", 130))}
    first = {}
    for k, (name, (rank, width)) in enumerate(shapes.items()):
        whole = whole_numbers("mlx", 42, Place(231 + 2 * k, rank, width))
        first[name] = LoraFactors(torch.from_numpy(whole / 2**23 / width**0.5).float(), torch.zeros(50, rank))
    found = find_start(trained(first, by=0.2))
    assert found is not None
    assert (found.generator, found.seed) == ("mlx", 42)
    assert [found.places[name].offset for name in shapes] == [231, 233, 235, 237]
    check_exact(found, first)


def test_too_wide_too_small_and_zero_modules_are_left_out(first: Modules) -> None:
    modules = trained(first)
    others = {
        "wide": LoraFactors(torch.rand(1, 2**16), torch.rand(4, 1)),
        "small": LoraFactors(torch.rand(1, 100), torch.rand(4, 1)),
        "zero": LoraFactors(torch.zeros(4, 100), torch.rand(4, 4)),
        "not finite": LoraFactors(torch.full((4, 100), torch.inf), torch.rand(4, 4)),
        "empty": LoraFactors(torch.zeros(0, 100), torch.zeros(4, 0)),
    }
    found = find_start(modules | others)
    assert found is not None
    assert found.places.keys() == modules.keys()
    assert find_start(others) is None
    assert find_start({}) is None


def test_what_looks_like_no_start_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the stream was drawn")

    monkeypatch.setattr("adaptzip.bases.starts.streams.Mersenne", refuse)
    heavy = torch.from_numpy(np.random.default_rng(0).standard_t(1.5, (8, 400))).float()
    assert find_start({"a": LoraFactors(heavy, torch.ones(20, 8))}) is None


def test_a_start_tells_offsets_in_the_order_asked_for(first: Modules) -> None:
    found = find_start(trained(first))
    assert found is not None
    names = sorted(first)[:3]
    start = found.start(names)
    assert (start.generator, start.seed) == ("uniform", 3407)
    assert start.offsets == tuple(found.places[name].offset for name in names)
    assert start.correlation == pytest.approx(sum(found.correlations.values()) / len(first))


@pytest.mark.parametrize(
    ("name", "seed", "offset"), [("lists-minilm-r16", 0, 15_360), ("langid-minilm-r16", 0, 27_648)]
)
def test_the_fixtures_began_with_seed_0(name: str, seed: int, offset: int) -> None:
    check_real(ROOT / "fixtures" / name, seed, offset)


@pytest.mark.skipif(not MATERIAL.is_dir(), reason="other people's adapters are not here")
@pytest.mark.parametrize(
    ("name", "seed", "offset"),
    [("roberta-agnews-aguleon", 42, 337_948), ("smollm2-trec-r8", 0, 9_216), ("minilm-trec-r8", 0, 8_448)],
)
def test_real_adapters_are_found(name: str, seed: int, offset: int) -> None:
    check_real(MATERIAL / name, seed, offset)


def check_real(path: Path, seed: int, offset: int) -> None:
    modules = adaptzip.read(path).modules
    found = find_start(modules)
    assert found is not None
    assert (found.generator, found.seed) == ("uniform", seed)
    assert found.places.keys() == modules.keys()
    assert min(place.offset for place in found.places.values()) == offset
