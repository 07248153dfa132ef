"""loralib's files mean what its layers compute, those of the old PEFT's MergedLinear too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

import adaptzip
from adaptzip.errors import AdaptzipError, AdaptzipWarning, CheckpointError, RefusedError, UsageError
from adaptzip.restoring.merging import merge
from adaptzip.restoring.reading import read
from tests.cases import merge_cases, state_dicts, tiny_peft
from tests.cases.state_dicts import CLASSIFIER, QUERY, SHAPES, UP, drawn, saved

FUSED = "transformer.h.0.attn.c_attn"
ALPHA = 6.0


def factors(rank: int = 4) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": tensor
        for name, (out, width) in SHAPES.items()
        for part, tensor in drawn(len(name), lora_A=(rank, width), lora_B=(out, rank)).items()
    }


def updates(given: dict[str, Tensor], rank: int = 4) -> dict[str, Tensor]:
    return {name: ALPHA / rank * given[f"{name}.lora_B"] @ given[f"{name}.lora_A"] for name in SHAPES}


@pytest.mark.parametrize("key", [None, "model_state_dict", "state_dict"])
def test_a_lora_state_dict_is_read_with_alpha(key: str | None, tmp_path: Path) -> None:
    head = drawn(3, classifier__weight=(3, 16))
    given: Any = factors() | head
    torch.save(given if key is None else {key: given}, tmp_path / "model.pt")
    for path in (tmp_path / "model.pt", tmp_path):
        found = read(path, alpha=ALPHA)
        assert found.meta.dialect == "loralib"
        assert torch.equal(found.extras[f"base_model.model.{CLASSIFIER}"], head[CLASSIFIER])
        for name, update in updates(factors()).items():
            torch.testing.assert_close(found.modules[name].delta(), update)


def test_a_whole_model_merges_to_what_it_was(tmp_path: Path) -> None:
    given = factors()
    run = saved(tmp_path / "run", state_dicts.trained_model(tmp_path, given), {"lora_alpha": ALPHA, "lora_r": 4})
    state_dicts.check_merged(tmp_path, run, updates(given))


def test_a_model_that_was_saved_with_its_updates_in_its_weights_is_the_same(tmp_path: Path) -> None:
    """As loralib's layers have them while they are evaluated."""
    given = factors()
    model = state_dicts.trained_model(tmp_path, given)
    model |= {f"{name}.weight": model[f"{name}.weight"] + update for name, update in updates(given).items()}
    state_dicts.check_merged(tmp_path, saved(tmp_path / "run", model), updates(given), alpha=ALPHA)


def test_half_the_precision_is_no_training(tmp_path: Path) -> None:
    model = {key: t.half() if t.is_floating_point() else t for key, t in state_dicts.base(tmp_path).items()}
    run = saved(tmp_path / "run", model | factors())
    assert not read(run, alpha=ALPHA, base=tmp_path / "base").extras


def test_heads_that_the_base_lacks_are_added(tmp_path: Path) -> None:
    model = state_dicts.trained_model(tmp_path, factors())
    model |= drawn(5, pooler__dense__weight=(16, 16))
    run = saved(tmp_path / "run", model, {"lora_alpha": 6, "architectures": ["BertForSequenceClassification"]})
    found = read(run, base=tmp_path / "base")
    assert found.meta.config["modules_to_save"] == ["classifier", "pooler"]
    assert found.meta.config["task_type"] == "SEQ_CLS"
    merge(found, tmp_path / "base", tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(merged["pooler.dense.weight"], model["pooler.dense.weight"])


def test_a_whole_model_needs_its_base(tmp_path: Path) -> None:
    model = state_dicts.trained_model(tmp_path, factors())
    run = saved(tmp_path / "run", model)
    with pytest.raises(RefusedError, match="its base model is needed to tell what was trained") as caught:
        read(run, alpha=ALPHA)
    assert caught.value.hint == "add `base=DIR`"
    saved(run, model | {f"{QUERY}.weight": model[f"{QUERY}.weight"] + 1})
    with pytest.raises(RefusedError, match=f"{QUERY}.weight is another than the base's"):
        read(run, alpha=ALPHA, base=tmp_path / "base")


def test_an_embedding_has_its_vocabulary_for_inputs(tmp_path: Path) -> None:
    name = "bert.embeddings.word_embeddings"
    given = {f"{name}.{key}": t for key, t in drawn(1, lora_A=(4, 32), lora_B=(16, 4)).items()}
    run = saved(tmp_path / "run", state_dicts.trained_model(tmp_path, given))
    update = ALPHA / 4 * (given[f"{name}.lora_B"] @ given[f"{name}.lora_A"]).T
    state_dicts.check_merged(tmp_path, run, {name: update}, alpha=ALPHA)


PATCHES = "vit.embeddings.patch_embeddings.projection"


@pytest.mark.parametrize("inner", [None, "", "conv."])
def test_a_convolution_is_the_product_of_its_factors_cut_into_rows_of_another_length(
    inner: str | None, tmp_path: Path
) -> None:
    """`inner` is where a whole model has its weight; None is the factors alone."""
    model = state_dicts.base(tmp_path, merge_cases.vit)
    weight = model[f"{PATCHES}.weight"]
    out, width, k, _ = weight.shape
    given = drawn(4, lora_A=(2 * k, width * k), lora_B=(out * k, 2 * k))
    update = (given["lora_B"] @ given["lora_A"]).view(weight.shape) * (ALPHA / 2)
    tensors = {f"{PATCHES}.{key}": tensor for key, tensor in given.items()}
    if inner is not None:
        own = {key: model.pop(f"{PATCHES}.{key}") for key in ("weight", "bias")}
        tensors |= model | {f"{PATCHES}.{inner}{key}": tensor for key, tensor in own.items()}
    run = saved(tmp_path / "run", tensors)
    found = read(run, alpha=ALPHA, base=tmp_path / "base")
    assert not found.extras
    torch.testing.assert_close(found.modules[PATCHES].weight_delta(), update, atol=1e-5, rtol=1e-5)
    merge(found, tmp_path / "base", tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    torch.testing.assert_close(merged[f"{PATCHES}.weight"], weight + update, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "factors", "error", "message"),
    [
        ((8, 4, 1), ((2, 4), (8, 2)), None, ""),
        ((8, 4, 3, 3), ((6, 12), (24, 6)), None, ""),
        ((8, 4, 3), ((6, 12), (24, 6)), CheckpointError, r"of a weight \[8, 4, 3\] with k x k"),
        ((8, 4, 3, 2), ((6, 12), (24, 6)), CheckpointError, "with k x k"),
        ((8, 4, 3, 3), ((6, 12), (12, 6)), CheckpointError, "with k x k"),
        ((8, 4, 3, 3), ((5, 12), (24, 5)), CheckpointError, "with k x k"),
        ((8, 2, 3, 3), ((6, 12), (12, 6)), RefusedError, "a convolution in 2 groups"),
        (None, ((6, 12), (24, 6)), RefusedError, "to tell how large the kernel of conv1 is"),
    ],
)
def test_which_convolutions_are_read(
    shape: tuple[int, ...] | None,
    factors: tuple[tuple[int, int], tuple[int, int]],
    error: type[AdaptzipError] | None,
    message: str,
    tmp_path: Path,
) -> None:
    given = drawn(1, conv1__lora_A=factors[0], conv1__lora_B=factors[1])
    if shape is not None:
        (tmp_path / "base").mkdir()
        save_file({"conv1.weight": torch.zeros(shape)}, tmp_path / "base" / "model.safetensors")
        (tmp_path / "base" / "config.json").write_text("{}")
    run, base = saved(tmp_path / "run", given), None if shape is None else tmp_path / "base"
    if error is not None:
        with pytest.raises(error, match=message):
            read(run, alpha=ALPHA, base=base)
        return
    assert shape is not None
    update = (given["conv1.lora_B"] @ given["conv1.lora_A"]).view(shape) * (ALPHA / 2)
    torch.testing.assert_close(read(run, alpha=ALPHA, base=base).modules["conv1"].weight_delta(), update)


def in_groups(A: Tensor, B: Tensor, enabled: Sequence[bool], x: Tensor) -> Tensor:
    """What loralib's MergedLinear adds to its outputs (n, out), but for the scale: a convolution, spread out."""
    parts = functional.conv1d((x @ A.T).T[None], B[..., None], groups=sum(enabled))[0].T
    out = torch.zeros(len(x), len(B) // sum(enabled) * len(enabled))
    chosen = torch.tensor(enabled).repeat_interleave(len(B) // sum(enabled))
    out[:, chosen] = parts
    return out


def fused(enabled: Sequence[bool], rank: int = 2) -> dict[str, Tensor]:
    on = sum(enabled)
    return {f"{FUSED}.{key}": t for key, t in drawn(on, lora_A=(on * rank, 16), lora_B=(on * 16, rank)).items()}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("enabled", "told"),
    [
        ((True, False, True), True),
        ((True, False, True), False),
        ((True, True, True), False),
        ((False, True, True), True),
        ((False, True, False), True),
    ],
)
def test_parts_of_a_fused_weight_are_what_the_convolution_makes_of_them(
    enabled: tuple[bool, ...], told: bool, whole: bool, tmp_path: Path
) -> None:
    given, model = fused(enabled), state_dicts.base(tmp_path, tiny_peft.gpt2)
    masks = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16).tril(),
        "transformer.h.0.attn.masked_bias": -1e4 * torch.ones(()),
    }
    run = saved(tmp_path / "run", {"model_state_dict": model | masks | given if whole else given}, name="model.1000.pt")
    (tmp_path / "told.json").write_text(json.dumps({"lora_alpha": ALPHA, "enable_lora": enabled}))
    options: dict[str, Any] = {"config": tmp_path / "told.json"} if told else {"alpha": ALPHA}
    if told or all(enabled):
        found = read(run, base=tmp_path / "base", **options)
    else:
        with pytest.warns(AdaptzipWarning, match="taken for the first and the third, q and v"):
            found = read(run, base=tmp_path / "base", **options)
    assert not found.extras
    assert found.modules[FUSED].layout == "transposed"
    x = torch.randn(5, 16)
    expected = ALPHA / 2 * in_groups(given[f"{FUSED}.lora_A"], given[f"{FUSED}.lora_B"], enabled, x)
    torch.testing.assert_close(x @ found.modules[FUSED].delta().T, expected, atol=1e-5, rtol=1e-4)
    merge(found, tmp_path / "base", tmp_path / "merged")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    change = after[f"{FUSED}.weight"] - model[f"{FUSED}.weight"]
    torch.testing.assert_close(x @ change, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("enabled", [(True, False, True), (True, True, True), (False, True), (False, True, False)])
def test_the_merged_linear_of_the_old_peft_is_the_same(enabled: tuple[bool, ...], tmp_path: Path) -> None:
    given = fused(enabled)
    A, B = (given[f"{FUSED}.lora_{side}"] for side in "AB")
    stem = f"base_model.model.{FUSED}"
    torch.save({f"{stem}.lora_A.weight": A, f"{stem}.lora_B.weight": B[..., None]}, tmp_path / "adapter_model.bin")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": ALPHA, "enable_lora": enabled, "fan_in_fan_out": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = read(tmp_path)
    assert found.meta.dialect == "peft-merged-linear"
    x = torch.randn(5, 16)
    expected = ALPHA / 2 * in_groups(A, B, enabled, x)
    torch.testing.assert_close(x @ found.modules[FUSED].delta().T, expected, atol=1e-5, rtol=1e-4)
    adaptzip.export(found, tmp_path / "plain")
    again = read(tmp_path / "plain")
    assert again.meta.dialect == "peft"
    torch.testing.assert_close(again.modules[FUSED].delta(), found.modules[FUSED].delta())


@pytest.mark.parametrize(
    ("changed", "shape", "message"),
    [
        ({"enable_lora": [True, True]}, (32, 2, 1), None),
        ({"enable_lora": [True, "no"]}, (32, 2, 1), "expected a list of true and false"),
        ({"enable_lora": [False, True, False]}, (32, 2, 1), "of g = 1 of 3 parts"),
        ({"r": 4}, (32, 2, 1), "has rank 2, but adapter_config.json says 4"),
        ({}, (32, 2, 3), r"\(g \* rows, rank, 1\)"),
        ({"lora_alpha": None}, (32, 2, 1), "lora_alpha is None"),
    ],
)
def test_what_is_wrong_with_an_old_peft_is_named(
    changed: dict[str, Any], shape: tuple[int, ...], message: str | None, tmp_path: Path
) -> None:
    stem = f"base_model.model.{FUSED}"
    tensors = {f"{stem}.lora_A.weight": torch.ones(4, 16), f"{stem}.lora_B.weight": torch.ones(shape)}
    torch.save(tensors, tmp_path / "adapter_model.bin")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": ALPHA, "enable_lora": [True, False, True], **changed}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    if message is None:
        assert read(tmp_path).modules[FUSED].shape == (32, 16)
        return
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path)


def test_parts_that_nothing_tells_are_refused(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", fused((True, False, True)))
    with pytest.raises(RefusedError, match="is needed to tell which parts of transformer.h.0.attn.c_attn's weight"):
        read(run, alpha=ALPHA)
    saved(run, fused((False, True, False)))
    state_dicts.base(tmp_path, tiny_peft.gpt2)
    with pytest.raises(RefusedError, match="factors of 1 of 3 parts") as caught:
        read(run, alpha=ALPHA, base=tmp_path / "base")
    assert "enable_lora" in str(caught.value.hint)


@state_dicts.parametrised(
    (lambda t: t.pop(f"{QUERY}.lora_B"), CheckpointError, "has .*query.lora_A but no lora_B"),
    (lambda t: t.update({f"{QUERY}.lora_B": torch.ones(16, 3)}), CheckpointError, "of a weight|equal parts"),
    (lambda t: t.update({f"{QUERY}.lora_B": torch.ones(12, 4)}), CheckpointError, "some of its equal parts"),
    (lambda t: t.update({f"{QUERY}.lora_B": torch.ones(16)}), CheckpointError, r"\(out, rank\)"),
    (lambda t: t.update({f"{UP}.lora_A": torch.full((4, 16), torch.nan)}), CheckpointError, "holds NaN"),
    (lambda t: t.update({f"{UP}.lora_C": torch.ones(4, 16)}), CheckpointError, "lora_C has no meaning in loralib"),
)
def test_what_is_wrong_is_named(
    change: state_dicts.Change, error: type[AdaptzipError], message: str, tmp_path: Path
) -> None:
    given = factors()
    change(given)
    state_dicts.base(tmp_path)
    with pytest.raises(error, match=message):
        read(saved(tmp_path / "run", given), alpha=ALPHA, base=tmp_path / "base")


def test_alpha_is_said_once(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", factors())
    with pytest.raises(CheckpointError, match="no configuration beside it says lora_alpha") as caught:
        read(run)
    assert "`alpha=" in str(caught.value.hint)
    saved(run, factors(), {"lora_alpha": 6})
    assert next(iter(read(run).modules.values())).scaling == 1.5
    with pytest.raises(UsageError, match="says that lora_alpha is 6"):
        read(run, alpha=6)
    saved(run, factors(), {"model_type": "bert"})
    assert next(iter(read(run, alpha=6).modules.values())).scaling == 1.5


def test_real_ones_are_read(material: Path) -> None:
    found = read(material / "adapters" / "loralib-roberta-mnli", alpha=8)
    assert {(m.rank, m.scaling, m.shape) for m in found.modules.values()} == {(8, 1.0, (768, 768))}
    assert len(found.extras) == 4
    bloom = read(material / "adapters" / "bloom-lora-wujindou")
    assert {(m.rank, m.scaling, m.shape) for m in bloom.modules.values()} == {(16, 2.0, (3072, 1024))}
    assert not any(m.B[1024:2048].any() for m in bloom.modules.values())
