"""VB-LoRAs for stock PEFT: what is written loads with the same update, what is read is what PEFT merges."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import VBLoRAConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import adaptzip
from adaptzip.checkpoints import Native, NativeWriter, WriteOptions, writer
from adaptzip.checkpoints.peft_vblora.fitness import nearest_divisors
from adaptzip.checkpoints.peft_vblora.layout import index_dtype
from adaptzip.core.layouts import Layout
from adaptzip.errors import AdaptzipWarning, CheckpointError, RefusedError, UsageError
from adaptzip.restoring.reading import read
from tests.cases.tiny_peft import Trained, bert, gpt2, llama, merged_by_peft, randomise, train
from tests.cases.vblora_cases import Widths, hand_made

LLAMA: Widths = {
    f"model.layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {
        "self_attn.q_proj": (16, 16),
        "self_attn.k_proj": (8, 16),
        "mlp.up_proj": (24, 16),
        "mlp.down_proj": (16, 24),
    }.items()
}
GPT2: Widths = {
    f"transformer.h.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {"attn.c_attn": (48, 16), "attn.c_proj": (16, 16), "mlp.c_fc": (64, 16)}.items()
}
MODELS: dict[str, tuple[Callable[[], Any], Widths, Layout]] = {
    "linear": (llama, LLAMA, "linear"),
    "conv1d": (gpt2, GPT2, "transposed"),
}
VBLORA = writer("peft-vblora")


def write(native: Native, folder: Path, **options: Any) -> Path:
    folder.mkdir()
    assert isinstance(VBLORA, NativeWriter)
    VBLORA.write_native(native, folder, WriteOptions(**options))
    return folder


def assert_loads_alike(native: Native, model: Callable[[], Any], tmp_path: Path) -> None:
    """PEFT's merge of what was written is this package's merge of the same adapter."""
    write(native, tmp_path / "vb")
    base = model()
    base.save_pretrained(tmp_path / "base")
    adaptzip.merge(native.adapter, tmp_path / "base", tmp_path / "merged")
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    before = base.state_dict()
    theirs = merged_by_peft(model(), tmp_path / "vb")
    for name, tensor in ours.items():
        assert float((theirs[name] - tensor).abs().max()) <= 1e-6 * float(tensor.abs().max())
    changed = {name.removesuffix(".weight") for name in ours if not torch.equal(theirs[name], before[name])}
    assert changed == {name for name, module in native.modules.items() if module.tensors}


@pytest.mark.parametrize("vectors", [20, 255, 256, 300])
@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", MODELS)
def test_peft_merges_what_is_written_as_we_do(kind: str, top_k: int, vectors: int, tmp_path: Path) -> None:
    model, widths, layout = MODELS[kind]
    assert_loads_alike(hand_made(widths, top_k=top_k, vectors=vectors, layout=layout), model, tmp_path)


@pytest.mark.parametrize(("rank", "length", "scale"), [(1, 1, 1.0), (5, 4, 0.25), (20, 8, None), (2, 2, 2.0**-9)])
def test_ranks_lengths_and_scales(rank: int, length: int, scale: float | None, tmp_path: Path) -> None:
    native = hand_made(LLAMA, rank=rank, length=length, scale=scale)
    assert_loads_alike(native, llama, tmp_path)


def test_what_the_files_hold(tmp_path: Path) -> None:
    native = hand_made({"m.long": (16, 24), "m.wide": (24, 8)}, vectors=300, top_k=3, rank=2, scale=8.0)
    folder = write(native, tmp_path / "vb")
    tensors = load_file(folder / "adapter_model.safetensors")
    long = "base_model.model.m.long.vblora_logits_"
    assert {key for key in tensors if key.startswith(long)} == {
        f"{long}{side}_topk_{what}" for side in "AB" for what in ("indices", "weights")
    }
    shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
    assert shapes["base_model.vblora_vector_bank"] == [300, 8]
    assert shapes[f"{long}A_topk_indices"] == [2, 3, 3]
    assert shapes[f"{long}A_topk_weights"] == [2, 3, 2]
    assert shapes[f"{long}B_topk_indices"] == [2, 2, 3]
    assert shapes["base_model.model.m.wide.vblora_logits_B_topk_weights"] == [3, 2, 2]
    assert tensors[f"{long}A_topk_indices"].dtype == torch.int16
    assert tensors[f"{long}A_topk_weights"].dtype == torch.float32
    # Row i * pieces + j is piece j of component i; of B the pieces come first in the file.
    own = native.modules["m.long"].tensors
    assert torch.equal(tensors[f"{long}A_topk_indices"][1, 2].long(), own["A.indices"][1 * 3 + 2])
    assert torch.equal(tensors[f"{long}B_topk_indices"][1, 0].long(), own["B.indices"][0 * 2 + 1])
    assert torch.equal(tensors["base_model.vblora_vector_bank"], own["bank"] / 8)
    config = json.loads((folder / "adapter_config.json").read_text())
    expected = {"peft_type": "VBLORA", "r": 2, "num_vectors": 300, "vector_length": 8, "topk": 3}
    assert config.items() >= expected.items()
    assert config["save_only_topk_weights"] is True
    assert config["target_modules"] == ["m.long", "m.wide"]
    assert config["base_model_name_or_path"] == "somebody/some-base"


@pytest.mark.parametrize("top_k", [1, 3])
def test_what_is_written_is_read_again(top_k: int, tmp_path: Path) -> None:
    native = hand_made(GPT2, top_k=top_k, vectors=300, layout="transposed")
    again = read(write(native, tmp_path / "vb"))
    assert again.modules.keys() == native.modules.keys()
    for name, factors in native.adapter.modules.items():
        assert again.modules[name].layout == "transposed"
        torch.testing.assert_close(again.modules[name].delta(), factors.delta(), atol=1e-7, rtol=1e-6)


def test_index_dtypes_are_pefts() -> None:
    sizes = (255, 256, 32767, 32768, 2**31 - 1, 2**31)
    dtypes = [torch.uint8, torch.int16, torch.int16, torch.int32, torch.int32, torch.int64]
    assert [index_dtype(size) for size in sizes] == dtypes


def test_the_bank_may_be_half_precise_and_the_weights_may_not(tmp_path: Path) -> None:
    native = hand_made(LLAMA)
    folder = write(native, tmp_path / "vb", dtype=torch.float16)
    tensors = load_file(folder / "adapter_model.safetensors")
    assert tensors["base_model.vblora_vector_bank"].dtype == torch.float16
    assert {t.dtype for key, t in tensors.items() if key.endswith("_weights")} == {torch.float32}
    merged_by_peft(llama(), folder)
    huge = {
        name: replace(module, tensors={**module.tensors, "bank": module.tensors["bank"] * 1e7})
        for name, module in native.modules.items()
    }
    with pytest.raises(RefusedError, match="the bank has numbers that float16 cannot hold"):
        write(replace(native, modules=huge), tmp_path / "huge", dtype=torch.float16)


def test_zero_updates_are_no_targets(tmp_path: Path) -> None:
    zero = ("model.layers.0.mlp.up_proj", "model.layers.1.self_attn.k_proj")
    native = hand_made(LLAMA, zero=zero)
    assert_loads_alike(native, llama, tmp_path)
    config = json.loads((tmp_path / "vb" / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == LLAMA.keys() - set(zero)
    with pytest.raises(RefusedError, match="every update of the adapter is zero"):
        write(hand_made(LLAMA, zero=tuple(LLAMA)), tmp_path / "none")


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_heads_and_biases_load_in_peft(bias: str, tmp_path: Path) -> None:
    """The trained biases of a target lie under `base_layer`, and without it where its update became zero."""
    stem = "bert.encoder.layer.{}.attention.self.query"
    names = [stem.format(layer) for layer in range(2)]
    generator = torch.Generator().manual_seed(1)
    extras = {
        f"base_model.model.classifier.{what}": torch.randn(shape, generator=generator)
        for what, shape in (("weight", (3, 16)), ("bias", (3,)))
    }
    if bias != "none":
        extras |= {f"base_model.model.{name}.base_layer.bias": torch.randn(16, generator=generator) for name in names}
    if bias == "all":
        extras["base_model.model.bert.encoder.layer.0.attention.self.key.bias"] = torch.randn(16, generator=generator)
    config = {"bias": bias, "task_type": "SEQ_CLS", "modules_to_save": ["classifier"], "peft_type": "LORA"}
    native = hand_made(dict.fromkeys(names, (16, 16)), extras=extras, config=config, zero=(names[1],))
    merged = merged_by_peft(bert(), write(native, tmp_path / "vb"))
    for key, tensor in extras.items():
        name = key.removeprefix("base_model.model.").replace(".base_layer", "")
        assert torch.equal(merged[name], tensor), name
    update = native.modules[names[0]].B @ native.modules[names[0]].A
    torch.testing.assert_close(merged[f"{names[0]}.weight"], bert().state_dict()[f"{names[0]}.weight"] + update)


def test_widths_that_the_length_does_not_divide_are_refused(tmp_path: Path) -> None:
    native = hand_made({"a": (48, 96), "b": (36, 24)}, length=12)
    awkward = hand_made({"a": (48, 96), "b": (40, 24)}, length=8)
    write(awkward, tmp_path / "fits")
    modules = {**native.modules, "c": replace(native.modules["a"], out=40)}
    with pytest.raises(RefusedError, match=r"module c is 40 x 96, .* length, here 12, divides") as caught:
        write(replace(native, modules=modules), tmp_path / "not")
    assert "`options={'length': 4}`, which" in str(caught.value.hint)


def test_nearest_divisors() -> None:
    assert nearest_divisors(768, 100) == (96, 128)
    assert nearest_divisors(768, 64) == (48, 96)
    assert nearest_divisors(4, 100) == (4,)
    assert nearest_divisors(7, 3) == (1, 7)


def test_ranks_that_differ_are_refused(tmp_path: Path) -> None:
    low, high = hand_made({"a": (16, 16)}, rank=2), hand_made({"b": (16, 16)}, rank=3)
    with pytest.raises(RefusedError, match=r"module a has rank 2 and b rank 3; .* one rank for all") as caught:
        write(replace(low, modules={**low.modules, **high.modules}), tmp_path / "vb")
    assert "`options={'uniform': True}`" in str(caught.value.hint)


def test_layouts_that_peft_lacks_are_refused(tmp_path: Path) -> None:
    linear, turned = hand_made({"a": (16, 16)}), hand_made({"b": (16, 16)}, layout="transposed")
    with pytest.raises(RefusedError, match=r"1 of 2 modules lie transposed, such as b; .* one fan_in_fan_out"):
        write(replace(linear, modules={**linear.modules, **turned.modules}), tmp_path / "mixed")
    for layout in ("conv", "embedding", "expert"):
        with pytest.raises(RefusedError, match=f"module a is of layout {layout}") as caught:
            write(hand_made({"a": (16, 16)}, layout=layout), tmp_path / layout)
        assert "`as_='peft'`" in str(caught.value.hint)


def test_what_has_no_place_beside_the_factors_is_refused(tmp_path: Path) -> None:
    native = hand_made({"a": (16, 16)})
    for part in ("magnitude", "bias"):
        more: dict[str, Any] = {part: torch.ones(16)}
        modules = {"a": replace(native.adapter.modules["a"], **more)}
        with pytest.raises(RefusedError, match=f"module a has a .*{part}"):
            write(replace(native, adapter=replace(native.adapter, modules=modules)), tmp_path / part)
    tokens = {"base_model.model.emb.token_adapter.trainable_tokens_delta": torch.ones(2, 4)}
    with pytest.raises(RefusedError, match="are trained token rows"):
        write(hand_made({"a": (16, 16)}, extras=tokens), tmp_path / "tokens")
    with pytest.raises(RefusedError, match="layer_replication"):
        write(hand_made({"a": (16, 16)}, config={"layer_replication": [[0, 2], [1, 2]]}), tmp_path / "copies")


def test_a_gain_a_repeated_vector_and_the_portable_profile_are_refused(tmp_path: Path) -> None:
    native = hand_made({"a": (16, 16)})
    module = native.modules["a"]
    with pytest.raises(RefusedError, match="gain of its own"):
        write(replace(native, modules={"a": replace(module, gain=2.0)}), tmp_path / "gain")
    twice = {**module.tensors, "A.indices": torch.full_like(module.tensors["A.indices"], 7)}
    with pytest.raises(RefusedError, match="names a vector twice"):
        write(replace(native, modules={"a": replace(module, tensors=twice)}), tmp_path / "twice")
    with pytest.raises(UsageError, match="`portable=True` is a profile of LoRAs"):
        write(native, tmp_path / "portable", portable=True)


def test_the_memory_of_dense_logits() -> None:
    native = hand_made({"a": (16, 24), "b": (8, 8), "zero": (16, 16)}, vectors=300, rank=3, zero=("zero",))
    pieces = 3 * ((16 + 24) + (8 + 8)) // 8
    assert isinstance(VBLORA, NativeWriter)
    assert VBLORA.loading_bytes(native) == pieces * 300 * 4


def trained(model: nn.Module, folder: Path, **config: Any) -> Trained:
    """A VB-LoRA that PEFT saved, and what PEFT's merge makes of it."""
    base = {key: value.clone() for key, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, VBLoRAConfig(**config))
        randomise(wrapped)
        wrapped.save_pretrained(folder)
        merged: dict[str, Tensor] = wrapped.merge_and_unload().state_dict()
    return Trained(folder, base, merged)


TRAINED: list[tuple[Callable[[], Any], dict[str, Any]]] = [
    (llama, {"target_modules": ["q_proj", "up_proj"], "vector_length": 8}),
    (gpt2, {"target_modules": ["c_attn", "c_proj"], "vector_length": 16, "fan_in_fan_out": True}),
    (bert, {"target_modules": ["query"], "vector_length": 4, "bias": "all", "task_type": "SEQ_CLS"}),
]


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize(("model", "config"), TRAINED)
def test_what_is_read_is_what_peft_merges(
    model: Callable[[], Any], config: dict[str, Any], top_k: int, compact: bool, tmp_path: Path
) -> None:
    made = trained(model(), tmp_path / "vb", r=3, num_vectors=30, topk=top_k, save_only_topk_weights=compact, **config)
    adapter = read(made.folder)
    for name, factors in adapter.modules.items():
        torch.testing.assert_close(factors.weight_delta(), made.change(f"{name}.weight"), atol=3e-7, rtol=1e-6)
    model().save_pretrained(tmp_path / "base")
    adaptzip.merge(adapter, tmp_path / "base", tmp_path / "merged")
    again = merged_by_peft(model(), made.folder)
    for name, tensor in load_file(tmp_path / "merged" / "model.safetensors").items():
        assert torch.equal(tensor, again[name]), name
    adaptzip.export(adapter, tmp_path / "lora")
    lora = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert (lora["peft_type"], lora["task_type"]) == ("LORA", config.get("task_type"))
    for name, tensor in merged_by_peft(model(), tmp_path / "lora").items():
        torch.testing.assert_close(tensor, again[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("compact", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize(("model", "config"), TRAINED)
def test_a_folder_of_all_logits_is_written_with_the_largest_alone(
    model: Callable[[], Any], config: dict[str, Any], top_k: int, compact: bool, tmp_path: Path
) -> None:
    made = trained(model(), tmp_path / "vb", r=3, num_vectors=30, topk=top_k, save_only_topk_weights=compact, **config)
    adaptzip.export(made.folder, tmp_path / "out", as_="peft-vblora")
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert not any(key.endswith(("logits_A", "logits_B")) for key in written)
    for key, tensor in written.items():
        if key.endswith("weights"):
            rest = 1 - tensor.sum(-1)
            assert (rest[..., None] >= tensor - 1e-6).all(), "the largest is last"
    expected = merged_by_peft(model(), made.folder)
    for name, tensor in merged_by_peft(model(), tmp_path / "out").items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6)


def test_what_is_said_of_a_folder_counts_when_it_is_written_again(tmp_path: Path) -> None:
    made = trained(
        llama(), tmp_path / "vb", r=3, num_vectors=30, vector_length=8, topk=3, target_modules=["q_proj"],
    )  # fmt: skip
    moved = (made.folder / "adapter_config.json").rename(tmp_path / "moved.json")
    adaptzip.export(made.folder, tmp_path / "out", as_="peft-vblora", config=moved, dialect="peft-vblora")
    for name, tensor in merged_by_peft(llama(), tmp_path / "out").items():
        torch.testing.assert_close(tensor, made.merged[name], atol=1e-6, rtol=1e-6)
    plain = train(llama(), tmp_path / "lora", target_modules=["q_proj"])
    for folder, said, error, message in (
        (made.folder, {}, CheckpointError, "no adapter_config.json is beside it"),
        (made.folder, {"config": moved, "alpha": 2.0}, UsageError, "`alpha=2` was given"),
        (made.folder, {"config": moved, "dialect": "peft"}, RefusedError, "is no .adz file"),
        (plain.folder, {"dialect": "peft-vblora"}, CheckpointError, "is a VB-LoRA, but its peft_type is 'LORA'"),
    ):
        with pytest.raises(error, match=message):
            adaptzip.export(folder, tmp_path / "no", as_="peft-vblora", **said)
    adaptzip.compress(made.folder, tmp_path / "a.adz", lossless=True, config=moved)
    with pytest.raises(UsageError, match="`dialect='peft-vblora'` was"):
        adaptzip.export(tmp_path / "a.adz", tmp_path / "no", as_="peft-vblora", dialect="peft-vblora")
    with pytest.raises(UsageError, match="`alpha=` was"):
        adaptzip.export(tmp_path / "a.adz", tmp_path / "no", as_="peft-vblora", alpha=2.0)


def test_weights_that_rounding_takes_beyond_1_are_read_as_1(tmp_path: Path) -> None:
    made = trained(
        llama(), tmp_path / "vb", r=3, num_vectors=30, vector_length=8, topk=3, target_modules=["q_proj"],
        save_only_topk_weights=True,
    )  # fmt: skip
    path = made.folder / "adapter_model.safetensors"
    tensors = load_file(path)
    key = "base_model.model.model.layers.0.self_attn.q_proj.vblora_logits_A_topk_weights"
    tensors[key][0, 0] = torch.tensor([0.75, 0.25 + 2**-23])
    save_file(tensors, path, {"format": "pt"})
    assert float(1 - tensors[key][0, 0].sum()) < 0
    with pytest.warns(AdaptzipWarning, match=r"has weights that rounding makes 1.00000012 of 1, which are read as 1"):
        found = read(made.folder).modules["model.layers.0.self_attn.q_proj"]
    bank = tensors["base_model.vblora_vector_bank"]
    first, second, _ = tensors[key.replace("weights", "indices")][0, 0].tolist()
    torch.testing.assert_close(found.A[0, :8], 0.75 * bank[first] + 0.25 * bank[second])
    with pytest.warns(AdaptzipWarning, match="read as 1"):
        adaptzip.export(made.folder, tmp_path / "out", as_="peft-vblora")
    loaded = merged_by_peft(llama(), tmp_path / "out")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in loaded.values())
    tensors[key][0, 0] = torch.tensor([0.75, 0.2501])
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="negative or add up to more than 1"):
        read(made.folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"A_topk_indices": lambda t: t.to(torch.int16) + 30}, "names vectors that the bank of 30 lacks"),
        ({"A_topk_indices": lambda t: t * 0}, "names a vector twice"),
        ({"A_topk_weights": lambda t: t + 1}, "negative or add up to more than 1"),
        ({"A_topk_weights": lambda t: t * float("nan")}, "NaN or infinity"),
        ({"A_topk_weights": lambda t: t[:, :1].contiguous()}, "expected 2 indices and 1 weights"),
        ({"B_topk_weights": None}, "has no logits of B"),
        ({f"B_topk_{what}": lambda t: t[:, :1].contiguous() for what in ("indices", "weights")}, "B of rank 1"),
        ({"extra": lambda t: t}, "has no meaning in a VB-LoRA"),
    ],
)  # fmt: skip
def test_malformed_files_are_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    made = trained(
        llama(), tmp_path / "vb", r=3, num_vectors=30, vector_length=8, target_modules=["q_proj"],
        save_only_topk_weights=True,
    )  # fmt: skip
    path = made.folder / "adapter_model.safetensors"
    tensors = load_file(path)
    for part, how in change.items():
        key = f"base_model.model.model.layers.0.self_attn.q_proj.vblora_logits_{part}"
        if how is None:
            del tensors[key]
        else:
            tensors[key] = how(tensors.get(key, torch.ones(1)))
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=said):
        read(made.folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"topk": 31}, "topk is 31"), ({"r": 4}, "has rank 3"), ({"peft_type": "VERA"}, "its peft_type is 'VERA'")],
)
def test_configurations_that_do_not_fit_are_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    made = trained(llama(), tmp_path / "vb", r=3, num_vectors=30, vector_length=8, target_modules=["q_proj"])
    path = made.folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=said):
        read(made.folder)


def test_a_field_without_meaning_is_refused_with_the_folder(tmp_path: Path) -> None:
    folder = write(hand_made(LLAMA), tmp_path / "vb")
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"layer_replication": 5}))
    with pytest.raises(CheckpointError, match="vb: layer_replication is 5, expected pairs of layer numbers"):
        read(folder)
