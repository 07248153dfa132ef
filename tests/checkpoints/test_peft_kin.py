"""DeLoRA, GraLoRA, LoHa, LoKr, TinyLoRA and UniLoRA as PEFT saves them mean what PEFT makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import DeloraConfig, GraloraConfig, LoHaConfig, LoKrConfig, TinyLoraConfig, UniLoraConfig, get_peft_model
from safetensors.torch import load_file

import adaptzip
from adaptzip.checkpoints._parts import is_embedding
from adaptzip.errors import CheckpointError, RefusedError
from adaptzip.restoring.exporting import export
from adaptzip.restoring.merging import merge
from adaptzip.restoring.reading import read
from tests.cases import peft_kin, tiny_peft
from tests.cases.peft_kin import MODELS, Make, agree

KINDS: dict[str, tuple[Make, dict[str, Any]]] = {
    "delora": (DeloraConfig, {"r": 4, "delora_lambda": 3.0}),
    "delora-ranks": (DeloraConfig, {"r": 4, "rank_pattern": {"(dense|up_proj)": 2}}),
    "delora-biases": (DeloraConfig, {"r": 2, "bias": "delora_only"}),
    "gralora": (GraloraConfig, {"r": 4, "gralora_k": 2, "alpha": 12}),
    "gralora-biases": (GraloraConfig, {"r": 4, "gralora_k": 2, "bias": "all"}),
    "gralora-4": (GraloraConfig, {"r": 8, "gralora_k": 4, "alpha": 12}),
    "loha": (LoHaConfig, {"r": 2, "alpha": 3}),
    "loha-full": (LoHaConfig, {"r": 5, "alpha": 2}),
    "loha-ranks": (
        LoHaConfig,
        {"r": 2, "rank_pattern": {"(dense|up_proj)": 3}, "alpha_pattern": {"(query|down_proj)": 5}},
    ),
    "lokr": (LoKrConfig, {"r": 1, "alpha": 3}),
    "lokr-whole": (LoKrConfig, {"r": 8, "alpha": 3}),
    "lokr-both": (LoKrConfig, {"r": 1, "decompose_both": True, "decompose_factor": 8}),
    "lokr-ranks": (LoKrConfig, {"r": 1, "rank_pattern": {"(dense|up_proj)": 2}, "decompose_factor": 2}),
    "tinylora": (TinyLoraConfig, {"r": 3, "u": 5}),
    "tinylora-tied": (TinyLoraConfig, {"r": 2, "u": 7, "weight_tying": 0.6, "projection_seed": 3}),
    "tinylora-one": (TinyLoraConfig, {"r": 2, "u": 2, "weight_tying": 1.0, "bias": "tinylora_only"}),
    "unilora": (UniLoraConfig, {"r": 3, "theta_d_length": 40, "save_indices": True}),
    "unilora-biases": (
        UniLoraConfig,
        {"r": 2, "theta_d_length": 5000, "save_indices": True, "bias": "unilora_only"},
    ),
    "gralora-hybrid": (GraloraConfig, {"r": 4, "gralora_k": 2, "hybrid_r": 3}),
}
CASES = [(kind, model) for kind in KINDS for model in ("llama", "bert")]


def saved(kind: str, name: str, folder: Path) -> None:
    peft_kin.saved(*KINDS[kind], name, folder)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_merges_to_the_weights_of_peft(kind: str, name: str, tmp_path: Path) -> None:
    saved(kind, name, tmp_path)
    theirs = tiny_peft.merged_by_peft(MODELS[name][0](), tmp_path / "adapter")
    assert read(tmp_path / "adapter").meta.dialect == f"peft-{kind.partition('-')[0]}"
    merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged")
    agree(load_file(tmp_path / "merged" / "model.safetensors"), theirs)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_it_goes_through_a_file_into_a_plain_lora(kind: str, name: str, tmp_path: Path) -> None:
    saved(kind, name, tmp_path)
    theirs = tiny_peft.merged_by_peft(MODELS[name][0](), tmp_path / "adapter")
    adaptzip.compress(tmp_path / "adapter", tmp_path / "a.adz", lossless=True)
    export(tmp_path / "a.adz", tmp_path / "plain", as_="peft")
    ours = tiny_peft.merged_by_peft(MODELS[name][0](), tmp_path / "plain")
    assert ours.keys() == theirs.keys()
    agree(ours, theirs)


def test_a_strength_below_nothing_turns_the_update_round(tmp_path: Path) -> None:
    saved("delora", "llama", tmp_path)
    before = read(tmp_path / "adapter")
    tiny_peft.changed(tmp_path / "adapter", lambda _, t: t.update({k: -v for k, v in t.items() if "lambda" in k}))
    for name, module in read(tmp_path / "adapter").modules.items():
        torch.testing.assert_close(module.delta(), -before.modules[name].delta())


def test_a_rank_of_zeros_is_none_and_no_nan(tmp_path: Path) -> None:
    saved("delora", "llama", tmp_path)
    tiny_peft.changed(tmp_path / "adapter", lambda _, t: t.update({k: v * 0 for k, v in t.items() if "delora_B" in k}))
    assert not any(module.delta().any() for module in read(tmp_path / "adapter").modules.values())


Q = "base_model.model.model.layers.0.self_attn.q_proj"
VECTOR = "base_model.unilora_theta_d"


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("delora", lambda c, t: c.update(r=5), "has rank 4, but adapter_config.json says 5"),
        ("delora", lambda c, t: c.update(r=None), "r is None, expected a whole number"),
        ("delora", lambda c, t: c.update(rank_pattern={"q_proj": 0}), "expected a whole number of at least 1"),
        ("delora", lambda c, t: t.pop(f"{Q}.delora_w_norm"), "but no delora_w_norm"),
        ("delora", lambda c, t: t.update({f"{Q}.delora_lambda": torch.ones(2)}), r"and w_norm \(in,\)"),
        ("delora", lambda c, t: t.update({f"{Q}.delora_C": torch.ones(2)}), "has no meaning in PEFT's DeLoRA"),
        ("gralora", lambda c, t: c.update(gralora_k=4), "as configured"),
        ("gralora", lambda c, t: c.update(r=8), "as configured"),
        ("gralora", lambda c, t: c.update(hybrid_r=2), "but no gralora_A_general.weight"),
        ("gralora", lambda c, t: c.update(alpha="a"), "alpha is 'a', expected a finite number"),
        ("gralora", lambda c, t: t.update({f"{Q}.gralora_A_general.weight": torch.ones(2, 16)}), "but hybrid_r is 0"),
        ("gralora", lambda c, t: t.pop(f"{Q}.gralora_B"), "but no gralora_B"),
        ("gralora-hybrid", lambda c, t: c.update(hybrid_r=2), r"expected \(2, 24\)"),
        ("loha", lambda c, t: t.pop(f"{Q}.hada_w2_a"), "but no hada_w2_a"),
        ("loha", lambda c, t: c.update(r=3), "hada_w1_b is of rank 2, but adapter_config.json says 3"),
        ("loha", lambda c, t: c.update(alpha="a"), "lora_alpha is 'a', expected a number"),
        ("loha", lambda c, t: t.update({f"{Q}.hada_w1_b": torch.ones(3, 16)}), r"q_proj w1_a is \[16, 2\] and w1_b is"),
        ("lokr", lambda c, t: t.pop(f"{Q}.lokr_w1"), "q_proj has neither, expected w1, or its a and b"),
        ("lokr", lambda c, t: t.update({f"{Q}.lokr_w2": torch.ones(4, 4)}), "q_proj has w2, w2_a, w2_b, expected w2"),
        ("lokr", lambda c, t: c.update(r=3), "lokr_w2_b is of rank 1, but adapter_config.json says 3"),
        ("lokr", lambda c, t: t.update({f"{Q}.lokr_w1": torch.full((4, 4), torch.inf)}), "holds NaN or infinity"),
        ("tinylora", lambda c, t: t.pop(f"{Q}.tinylora_A"), "but no tinylora_A"),
        ("tinylora", lambda c, t: t.update({f"{Q}.tinylora_B": torch.ones(16, 2)}), r"and P \(u, rank, rank\)"),
        ("tinylora", lambda c, t: t.update({"base_model.tinylora_v.0": torch.ones(4)}), r"is \[4\], expected \[5\]"),
        ("tinylora", lambda c, t: t.update({"base_model.tinylora_v.0": torch.full((5,), torch.nan)}), "holds NaN"),
        ("tinylora", lambda c, t: t.pop("base_model.tinylora_v.2"), "tinylora_v.2 is missing, but is among"),
        ("tinylora", lambda c, t: t.update({"base_model.tinylora_v.6": torch.ones(5)}), "is there, but is not among"),
        ("tinylora", lambda c, t: c.update(weight_tying=2), "weight_tying is 2, expected 0 to 1"),
        ("tinylora", lambda c, t: c.update(projection_seed=-1), "projection_seed is -1, expected a whole number"),
        ("unilora", lambda c, t: t.pop(f"{Q}.unilora_scales_B"), "but no unilora_scales_B"),
        ("unilora", lambda c, t: t.pop(f"{Q}.unilora_indices_A"), "has no unilora_indices_A"),
        ("unilora", lambda c, t: t.pop(VECTOR), "has no base_model.unilora_theta_d"),
        ("unilora", lambda c, t: c.update(theta_d_length=41), r"is \[40\], but adapter_config.json says 41"),
        ("unilora", lambda c, t: c.update(r=4), r"expected A \(4, in\) and B \(out, 4\)"),
        ("unilora", lambda c, t: t[f"{Q}.unilora_indices_A"].fill_(40), "has places from 40 to 40, expected 0 to 39"),
        ("unilora", lambda c, t: t[f"{Q}.unilora_indices_A"].fill_(-1), "has places from -1 to -1, expected 0 to 39"),
        ("unilora", lambda c, t: t.update({f"{Q}.unilora_scales_A": torch.ones(3, 2)}), "two matrices of one shape"),
        ("unilora", lambda c, t: t.update({f"{Q}.unilora_indices_A": torch.ones(3, 16)}), "expected int64 or int32"),
    ],
)
def test_what_is_wrong_is_named(kind: str, change: tiny_peft.Change, message: str, tmp_path: Path) -> None:
    saved(kind, "llama", tmp_path)
    tiny_peft.changed(tmp_path / "adapter", change)
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, t: [t.pop(key) for key in list(t) if key.endswith("_P")], "has no tinylora_P"),
        (lambda c, t: c.update(projection_seed=7), "was not drawn from projection_seed 7 for one of 6 modules"),
        (
            lambda c, t: t.update({f"{Q}.tinylora_P": t[f"{Q.replace('.0.', '.1.')}.tinylora_P"].clone()}),
            "was not drawn",
        ),
    ],
)
def test_modules_without_a_turn_are_refused(change: tiny_peft.Change, message: str, tmp_path: Path) -> None:
    saved("tinylora", "llama", tmp_path)
    tiny_peft.changed(tmp_path / "adapter", change)
    with pytest.raises(RefusedError, match=message):
        read(tmp_path / "adapter")


def test_places_that_are_left_out_are_refused(tmp_path: Path) -> None:
    peft_kin.saved(UniLoraConfig, {"r": 3, "theta_d_length": 40}, "llama", tmp_path)
    with pytest.raises(RefusedError, match="has no unilora_indices"):
        read(tmp_path / "adapter")


def test_any_places_and_scales_mean_what_peft_makes_of_them(tmp_path: Path) -> None:
    """A of numbers that no vector holds: one place for all, whose number is 1, and scales of both signs."""
    saved("unilora", "llama", tmp_path)

    def change(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors[VECTOR][7] = 1.0
        for key, tensor in tensors.items():
            if key.endswith("indices_A"):
                tensor.fill_(7)
            elif "scales" in key:
                tensor.copy_(torch.randn_like(tensor))

    tiny_peft.changed(tmp_path / "adapter", change)
    scales = load_file(tmp_path / "adapter" / "adapter_model.safetensors")[f"{Q}.unilora_scales_A"]
    name = Q.removeprefix("base_model.model.")
    assert torch.equal(read(tmp_path / "adapter").modules[name].A, scales)
    theirs = tiny_peft.merged_by_peft(MODELS["llama"][0](), tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "base", tmp_path / "merged")
    agree(load_file(tmp_path / "merged" / "model.safetensors"), theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_projections_are_known_in_every_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    saved("tinylora", "llama", tmp_path)
    before = read(tmp_path / "adapter").modules
    tiny_peft.changed(tmp_path / "adapter", lambda _, t: t.update({key: v.to(dtype) for key, v in t.items()}))
    for name, module in read(tmp_path / "adapter").modules.items():
        torch.testing.assert_close(module.delta(), before[name].delta(), atol=2e-2, rtol=2e-2)


def test_one_vector_for_all_needs_no_turns(tmp_path: Path) -> None:
    saved("tinylora-one", "llama", tmp_path)
    before = read(tmp_path / "adapter").modules
    tiny_peft.changed(tmp_path / "adapter", lambda c, t: c.update(projection_seed=7))
    for name, module in read(tmp_path / "adapter").modules.items():
        assert torch.equal(module.delta(), before[name].delta())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *[(name, True) for name in ("wte", "transformer.wpe", "model.embed_tokens", "bert.embeddings.word_embeddings")],
        *[(name, False) for name in ("embed_out", "embeddings_project", "patch_embed.proj", "shared_mlp", "not_wte2")],
    ],
)
def test_embeddings_are_known_by_name(name: str, expected: bool) -> None:
    assert is_embedding(name) == expected


def test_an_embeddings_cores(tmp_path: Path) -> None:
    base = tiny_peft.llama()
    tuned = get_peft_model(base, TinyLoraConfig(r=3, u=4, target_modules=["embed_tokens", "v_proj"]))
    tiny_peft.randomise(tuned)
    with pytest.warns(UserWarning, match="save_embedding_layers"):
        tuned.save_pretrained(tmp_path / "adapter")
    theirs = tiny_peft.merged_by_peft(tiny_peft.llama(), tmp_path / "adapter")
    before = tiny_peft.llama().state_dict()
    embedding = read(tmp_path / "adapter").modules["model.embed_tokens"]
    assert embedding.layout == "embedding"
    change = theirs["model.embed_tokens.weight"] - before["model.embed_tokens.weight"]
    torch.testing.assert_close(embedding.weight_delta(), change, atol=1e-5, rtol=1e-5)
    export(tmp_path / "adapter", tmp_path / "plain", as_="peft")
    agree(tiny_peft.merged_by_peft(tiny_peft.llama(), tmp_path / "plain"), theirs)


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("delora", "DeLoRA"),
        ("gralora", "GraLoRA"),
        ("loha", "LoHa"),
        ("lokr", "LoKr"),
        ("tinylora", "TinyLoRA"),
        ("unilora", "UniLoRA"),
    ],
)
def test_another_methods_configuration_beside_it_is_refused(kind: str, what: str, tmp_path: Path) -> None:
    saved(kind, "llama", tmp_path)
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 4}')
    with pytest.raises(RefusedError, match=f"belongs to {what}"):
        read(tmp_path / "adapter")


CONVOLUTIONS: dict[str, tuple[Make, dict[str, Any], list[str]]] = {
    "loha": (LoHaConfig, {"r": 2, "alpha": 3, "use_effective_conv2d": True}, ["conv1", "conv2", "lin"]),
    "loha-full": (LoHaConfig, {"r": 5, "use_effective_conv2d": True}, ["conv1", "conv2", "lin"]),
    "lokr": (LoKrConfig, {"r": 1, "alpha": 3, "use_effective_conv2d": True}, ["conv2", "lin"]),
    "lokr-whole": (LoKrConfig, {"r": 8, "alpha": 3}, ["conv1", "conv2", "lin"]),
    "lokr-both": (
        LoKrConfig,
        {"r": 1, "use_effective_conv2d": True, "decompose_both": True, "decompose_factor": 6},
        ["conv2", "lin"],
    ),
}
KERNELS = {"conv1": (3,), "conv2": (3, 2), "lin": ()}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_keep_their_kernels(kind: str, tmp_path: Path) -> None:
    make, fields, names = CONVOLUTIONS[kind]
    tuned = get_peft_model(tiny_peft.layers(), make(target_modules=names, **fields))
    tiny_peft.randomise(tuned)
    tuned.save_pretrained(tmp_path / "adapter")
    theirs, before = tiny_peft.merged_by_peft(tiny_peft.layers(), tmp_path / "adapter"), tiny_peft.layers().state_dict()
    found = read(tmp_path / "adapter").modules
    assert {name: module.kernel for name, module in found.items()} == {name: KERNELS[name] for name in names}
    for name, module in found.items():
        change = theirs[f"{name}.weight"] - before[f"{name}.weight"]
        torch.testing.assert_close(module.weight_delta(), change, atol=1e-5, rtol=1e-5, msg=name)
    export(tmp_path / "adapter", tmp_path / "plain", as_="peft")
    agree(tiny_peft.merged_by_peft(tiny_peft.layers(), tmp_path / "plain"), theirs)


def test_a_core_of_one_dimension_that_peft_saves_and_cannot_merge(tmp_path: Path) -> None:
    """The numbers of what torch's Kronecker product refuses for how they lie in memory."""
    tuned = get_peft_model(
        tiny_peft.layers(), LoKrConfig(r=1, alpha=3, use_effective_conv2d=True, target_modules=["conv1"])
    )
    tiny_peft.randomise(tuned)
    tuned.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    w1, w2_a, w2_b, t2 = (saved[f"base_model.model.conv1.lokr_{part}"] for part in ("w1", "w2_a", "w2_b", "t2"))
    assert tuple(t2.shape) == (1, 1, 3, 1)
    w2 = (w2_a.T @ w2_b)[:, :, None] * t2[0, 0, :, 0]
    module = read(tmp_path / "adapter").modules["conv1"]
    assert module.kernel == (3,)
    torch.testing.assert_close(module.weight_delta(), 3 * torch.kron(w1[:, :, None], w2.contiguous()))
