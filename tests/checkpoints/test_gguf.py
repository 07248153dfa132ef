"""GGUF holds what llama.cpp computes: B A by its own names, rows turned as its rotary embedding has them, alpha 0."""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from adaptzip.checkpoints._gguf import architectures
from adaptzip.checkpoints._gguf.architectures import BY_MODEL_TYPE, module_name, permuted, tensor_name, unpermuted
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipError, CheckpointError, RefusedError, UsageError
from adaptzip.restoring.exporting import export
from adaptzip.restoring.reading import read
from adaptzip.testing.adapters import factors, relative_error
from tests.cases.gguf_files import write_gguf

LAYER = "model.layers.1"
Q, K, DOWN = (f"{LAYER}.{name}" for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"))
LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
}


def base(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    return folder


def given(rank: int = 2) -> Adapter:
    modules = {Q: factors(32, 32, rank), K: factors(16, 32, rank), DOWN: factors(32, 64, rank + 1)}
    scaled = {Q: 0.3, K: 2.0, DOWN: 1.0}
    return Adapter({n: replace(m, scaling=scaled[n]) for n, m in modules.items()}, {}, Meta(base_model="owner/base"))


def by_hand(rows: Tensor, heads: int) -> Tensor:
    """Row 2i of a head is row i of its first half, and row 2i + 1 row i of its second half."""
    size = rows.shape[0] // heads
    order = [head * size + half * size // 2 + i for head in range(heads) for i in range(size // 2) for half in range(2)]
    return rows[order]


def opened(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    reader = gguf.GGUFReader(path)
    return {f.name: f.contents() for f in reader.fields.values()}, {t.name: t for t in reader.tensors}


def test_what_is_written_is_what_llama_cpp_reads(tmp_path: Path) -> None:
    report = export(given(), tmp_path / "out", as_="gguf", base=base(tmp_path / "base"))
    assert report.files == ("adapter.gguf",)
    values, tensors = opened(tmp_path / "out" / "adapter.gguf")
    wanted = {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 0.0,
        "general.base_model.0.name": "owner/base",
    }
    assert {key: values[key] for key in wanted} == wanted
    names = {Q: "blk.1.attn_q", K: "blk.1.attn_k", DOWN: "blk.1.ffn_down"}
    assert tensors.keys() == {f"{name}.weight.lora_{side}" for name in names.values() for side in "ab"}
    for module, heads in ((Q, 4), (K, 2), (DOWN, None)):
        wanted_a, wanted_b = given().modules[module].A, given().modules[module].B * given().modules[module].scaling
        a, b = (tensors[f"{names[module]}.weight.lora_{side}"] for side in "ab")
        assert a.tensor_type == b.tensor_type == gguf.GGMLQuantizationType.F32
        assert np.array_equal(a.data, wanted_a.numpy())
        assert np.array_equal(b.data, (wanted_b if heads is None else by_hand(wanted_b, heads)).numpy())


@pytest.mark.parametrize(
    ("dtype", "kind", "allowed"),
    [("float32", "F32", 1e-7), ("float16", "F16", 1e-3), ("bfloat16", "BF16", 8e-3), ("q8_0", "Q8_0", 2e-2)],
)
def test_every_type_comes_back_as_the_library_reads_it(dtype: Any, kind: str, allowed: float, tmp_path: Path) -> None:
    adapter = given(32)
    adapter = replace(adapter, modules={name: adapter.modules[name] for name in (Q, K)})
    export(adapter, tmp_path / "out", as_="gguf", base=base(tmp_path / "base"), dtype=dtype)
    found = read(tmp_path / "out")
    _, tensors = opened(tmp_path / "out" / "adapter.gguf")
    for name, stem, heads in ((Q, "attn_q", 4), (K, "attn_k", 2)):
        a, b = (tensors[f"blk.1.{stem}.weight.lora_{side}"] for side in "ab")
        assert a.tensor_type.name == b.tensor_type.name == kind
        module = found.modules[name]
        assert np.array_equal(gguf.dequantize(a.data, a.tensor_type), module.A.float().numpy())
        assert np.array_equal(gguf.dequantize(b.data, b.tensor_type), by_hand(module.B.float(), heads).numpy())
    assert relative_error(adapter, found) < allowed


def test_the_own_dtype_is_kept(tmp_path: Path) -> None:
    modules = {n: LoraFactors(m.A.bfloat16(), m.B.bfloat16(), 2.0) for n, m in given().modules.items()}
    modules[DOWN] = LoraFactors(modules[DOWN].A.double(), modules[DOWN].B.double(), 0.3)
    export(Adapter(modules), tmp_path / "out", as_="gguf", base=base(tmp_path / "base"))
    found = read(tmp_path / "out").modules
    assert {found[name].B.dtype for name in (Q, K)} == {torch.bfloat16}
    assert found[DOWN].A.dtype == found[DOWN].B.dtype == torch.float32


def test_rows_that_no_blocks_fill_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"tensor blk\.1\.attn_q\.weight\.lora_b \[32, 2\]: q8_0 has blocks of 32"):
        export(given(), tmp_path / "out", as_="gguf", base=base(tmp_path / "base"), dtype="q8_0")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="no dtype 'q8_0' to export in as peft"):
        export(given(), tmp_path / "out", as_="peft", dtype="q8_0")


def test_an_embedding_and_a_head_of_an_untied_base(tmp_path: Path) -> None:
    modules = {
        "model.embed_tokens": replace(factors(32, 50, 2), layout="embedding"),
        "lm_head": factors(50, 32, 3),
        Q: factors(32, 32, 0),
    }
    adapter = Adapter(modules)
    export(adapter, tmp_path / "out", as_="gguf", base=base(tmp_path / "base"))
    _, tensors = opened(tmp_path / "out" / "adapter.gguf")
    assert tensors["token_embd.weight.lora_a"].data.shape == (50, 2)
    assert tensors["token_embd.weight.lora_b"].data.shape == (32, 2)
    assert tensors["output.weight.lora_b"].data.shape == (50, 3)
    found = read(tmp_path / "out")
    assert found.modules["model.embed_tokens"].layout == "embedding"
    assert relative_error(adapter, found) == 0
    tied = base(tmp_path / "tied", tie_word_embeddings=True)
    with pytest.raises(RefusedError, match=r"of an embedding or head that the base ties together \(2, such as lm_head"):
        export(replace(adapter, modules=dict(sorted(modules.items()))), tmp_path / "no", as_="gguf", base=tied)


def everything() -> Adapter:
    plain = factors(32, 32, 2)
    modules = {
        "model.layers.0.mlp.experts.0": replace(plain, layout="expert"),
        "model.layers.0.self_attn.o_proj": replace(plain, magnitude=torch.ones(32)),
        "model.layers.0.self_attn.q_proj": replace(plain, bias=torch.ones(32)),
        "model.layers.0.self_attn.qkv_proj": plain,
        "model.patch": replace(plain, layout="conv", kernel=(2,)),
        "model.embed_tokens": factors(50, 32, 2),
    }
    return Adapter(modules, {"base_model.model.score.weight": torch.ones(2, 2)})


def test_all_that_it_cannot_hold_is_told_at_once_or_left_out(tmp_path: Path) -> None:
    folder = base(tmp_path / "base")
    with pytest.raises(RefusedError) as caught:
        export(everything(), tmp_path / "out", as_="gguf", base=folder)
    for told in (
        "GGUF cannot hold tensors beside the factors (base_model.model.score.weight)",
        "updates of whole parameters (model.layers.0.mlp.experts.0)",
        "DoRA magnitudes (model.layers.0.self_attn.o_proj)",
        "LoRA biases (model.layers.0.self_attn.q_proj)",
        "modules that have no tensor of their own in llama (model.layers.0.self_attn.qkv_proj)",
        "convolutions (model.patch)",
        "embeddings where the base has linear layers, or the other way round (model.embed_tokens)",
    ):
        assert told in str(caught.value)
    report = export(everything(), tmp_path / "out", as_="gguf", base=folder, drop_extras=True)
    assert len(report.left_out) == 7
    assert list(read(tmp_path / "out").modules) == [f"model.layers.0.self_attn.{s}_proj" for s in "oq"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_type": "falcon_mamba"}, RefusedError, "model_type is 'falcon_mamba', whose tensors in GGUF are not"),
        ({"model_type": "bloom"}, RefusedError, "conversion changes the rows of query_key_value"),
        ({"model_type": "deepseek_v3"}, RefusedError, "conversion changes kv_b_proj"),
        ({"num_hidden_layers": 1}, RefusedError, "the base has 1 layers"),
        ({"num_attention_heads": 8, "head_dim": 8}, RefusedError, "has 32 rows, where the base has 8 heads of 8"),
        ({"num_key_value_heads": 4}, RefusedError, "k_proj: has 16 rows, where the base has 4 heads of 8"),
        ({"num_attention_heads": "4"}, UsageError, "has '4' for num_attention_heads, expected a number"),
    ],
)
def test_another_base_is_refused(changes: Any, error: type[AdaptzipError], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        export(given(), tmp_path / "out", as_="gguf", base=base(tmp_path / "base", **changes))


def test_what_it_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names its base's architecture") as caught:
        export(given(), tmp_path / "out", as_="gguf")
    assert "`base=" in str(caught.value.hint)
    folder = base(tmp_path / "base")
    with pytest.raises(UsageError, match="`portable=True` is a profile of `as_='peft'`"):
        export(given(), tmp_path / "out", as_="gguf", base=folder, portable=True)
    repeated = replace(given(), meta=Meta(config={"layer_replication": [[0, 2], [1, 2]]}))
    with pytest.raises(RefusedError, match="layer_replication"):
        export(repeated, tmp_path / "out", as_="gguf", base=folder)


def test_without_the_library_the_package_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    architectures._within.cache_clear()
    architectures._whole.cache_clear()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(RefusedError, match="GGUF needs the package gguf") as caught:
        export(given(), tmp_path / "out", as_="gguf", base=base(tmp_path / "base"))
    assert caught.value.hint == "pip install 'adaptzip[gguf]'"


SIZES = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
OTHER_SIZES: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_head": 2, "n_layer": 2, "vocab_size": 8},
    "gpt_bigcode": {"n_embd": 16, "n_head": 2, "n_layer": 2, "vocab_size": 8},
    "exaone4": {**SIZES, "num_key_value_heads": 2, "layer_types": ["full_attention"] * 2},
    "phi3": {**SIZES, "pad_token_id": 0, "num_key_value_heads": 2},
    "mixtral": {**SIZES, "num_key_value_heads": 2, "num_local_experts": 2},
}


@pytest.mark.parametrize("kind", BY_MODEL_TYPE)
def test_the_modules_are_those_of_transformers_models(kind: str) -> None:
    sizes = OTHER_SIZES.get(kind, {**SIZES, "pad_token_id": 0, "num_key_value_heads": 2, "head_dim": 8})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    known = BY_MODEL_TYPE[kind]
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and n.startswith(known.layers)]
    found = {name for name in layers if tensor_name(known, name) is not None}
    assert found == {f"{known.layers}.{layer}.{name}" for layer in range(2) for name in known.modules}
    # The one row of this is a vector in llama.cpp.
    assert not [name for name in set(layers) - found if not name.endswith("mlp.shared_expert_gate")]
    assert {module_name(known, str(tensor_name(known, name))) for name in found} == found
    assert known.transposed == any(isinstance(m, Conv1D) for m in model.modules())
    assert known.name in gguf.MODEL_ARCH_NAMES.values()
    for name in known.whole:
        assert module_name(known, str(tensor_name(known, name))) == name
        model.get_submodule(name)


def test_rows_are_turned_and_turned_back() -> None:
    rows = torch.arange(24.0)[:, None]
    assert torch.equal(permuted(rows, 3), by_hand(rows, 3))
    assert torch.equal(unpermuted(permuted(rows, 3), 3), rows)


PAIR = {"blk.1.attn_q.weight.lora_a": torch.randn(2, 32), "blk.1.attn_q.weight.lora_b": torch.randn(32, 2)}
PLAIN = {key.replace("attn_q", "ffn_up"): tensor for key, tensor in PAIR.items()}


@pytest.mark.parametrize(("alpha", "scale"), [(8.0, 4.0), (0.0, 1.0), (None, 1.0)])
def test_alpha_is_divided_by_the_rank_and_0_means_1(alpha: float | None, scale: float, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf", PLAIN, {} if alpha is None else {"adapter.lora.alpha": alpha})
    assert read(file).modules["model.layers.1.mlp.up_proj"].scaling == scale


def test_turned_rows_need_the_heads(tmp_path: Path) -> None:
    """convert_lora_to_gguf.py does not write them."""
    file = write_gguf(tmp_path / "lora.gguf", PAIR, {"adapter.lora.alpha": 2.0})
    with pytest.raises(RefusedError, match="turned by the number of heads, which the file does not tell") as caught:
        read(file)
    assert "`base=" in str(caught.value.hint)
    found = read(tmp_path, base=base(tmp_path / "base")).modules[Q]
    assert torch.equal(by_hand(found.B, 4), PAIR["blk.1.attn_q.weight.lora_b"])
    with pytest.raises(CheckpointError, match="has 32 rows, which are not of 5 heads"):
        read(file, base=base(tmp_path / "base", num_attention_heads=5))
    with pytest.raises(CheckpointError, match="is for llama, but the base is qwen2"):
        read(file, base=base(tmp_path / "base", model_type="qwen2"))


def test_gpt2_comes_back_with_weights_that_lie_the_other_way_round(tmp_path: Path) -> None:
    file = write_gguf(
        tmp_path / "a.gguf", {k.replace("ffn_up", "attn_output"): t for k, t in PLAIN.items()}, {}, "gpt2"
    )
    assert {n: m.layout for n, m in read(file).modules.items()} == {"transformer.h.1.attn.c_proj": "transposed"}


Change = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("values", "change", "error", "message"),
    [
        ({"general.type": "model"}, None, RefusedError, "its general.type is 'model', expected 'adapter'"),
        ({"adapter.type": "control"}, None, RefusedError, "its adapter.type is 'control'"),
        ({"adapter.lora.alpha": float("nan")}, None, CheckpointError, "adapter.lora.alpha is nan"),
        (
            {},
            lambda t: t.update({"blk.0.attn_norm.weight": torch.ones(4)}),
            RefusedError,
            "attn_norm.weight is no part",
        ),
        (
            {},
            lambda t: t.update({"blk.0.odd.weight.lora_a": torch.ones(4, 4)}),
            RefusedError,
            "belongs to no one linear",
        ),
        ({}, lambda t: t.pop("blk.1.ffn_up.weight.lora_b"), CheckpointError, "has .*lora_a but no lora_b"),
        ({}, lambda t: t.update({"blk.1.ffn_up.weight.lora_b": torch.ones(32, 3)}), CheckpointError, r"\(rank, in\)"),
        (
            {},
            lambda t: t.update({"blk.1.ffn_up.weight.lora_b": torch.full((32, 2), torch.inf)}),
            CheckpointError,
            "inf",
        ),
        ({}, lambda t: t.clear(), CheckpointError, "holds no tensors"),
    ],
)
def test_what_it_cannot_be_is_named(
    values: Any, change: Change | None, error: type[AdaptzipError], message: str, tmp_path: Path
) -> None:
    tensors = dict(PLAIN)
    if change is not None:
        change(tensors)
    with pytest.raises(error, match=message) as caught:
        read(write_gguf(tmp_path / "a.gguf", tensors, values))
    assert str(tmp_path / "a.gguf") in str(caught.value)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="is for the architecture 'bloom', expected one of"):
        read(write_gguf(tmp_path / "a.gguf", PLAIN, {}, "bloom"))


def write_with_lists(path: Path, lists: Mapping[str, list[str] | list[int]]) -> None:
    out = gguf.GGUFWriter(path, "llama")
    out.add_type("adapter")
    out.add_string("adapter.type", "lora")
    for key, values in lists.items():
        out.add_array(key, values)
    out.add_bool("general.told", True)
    for name, tensor in PLAIN.items():
        out.add_tensor(name, tensor.numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def test_an_adapter_that_does_not_always_count_is_refused(tmp_path: Path) -> None:
    write_with_lists(tmp_path / "a.gguf", {"adapter.alora.invocation_tokens": [1, 2]})
    with pytest.raises(RefusedError, match="is an aLoRA, which counts after its invocation tokens"):
        read(tmp_path / "a.gguf")


def test_lists_are_skipped(tmp_path: Path) -> None:
    write_with_lists(tmp_path / "a.gguf", {"general.tags": ["a", "bc"], "general.numbers": [1, 2, 3]})
    assert torch.equal(
        read(tmp_path / "a.gguf").modules["model.layers.1.mlp.up_proj"].A, PLAIN["blk.1.ffn_up.weight.lora_a"]
    )


def test_a_damaged_file_is_refused_wherever_it_is_damaged(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf", PLAIN, {"adapter.lora.alpha": 1.0}).read_bytes()
    file, header = tmp_path / "a.gguf", whole.index(b"blk.") + 120
    for end in (*range(4, header), len(whole) - 1000, len(whole) - 1):
        file.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=re.escape(str(file))):
            read(file)
    file.write_bytes(whole + bytes(64))
    with pytest.raises(CheckpointError, match="has bytes after its tensors"):
        read(file)


def test_no_byte_of_a_header_makes_it_fail_in_another_way(tmp_path: Path) -> None:
    """Counts, lengths, types, dimensions and offsets among them, each made huge or small."""
    whole = bytearray(write_gguf(tmp_path / "whole.gguf", PLAIN, {"adapter.lora.alpha": 1.0}).read_bytes())
    wanted = read(tmp_path / "whole.gguf").modules
    file, refused = tmp_path / "a.gguf", 0
    for position in range(4, whole.index(b"blk.") + 120):
        for value in (0x00, 0x01, 0x7F, 0xFF):
            file.write_bytes(bytes(whole[:position]) + bytes([value]) + bytes(whole[position + 1 :]))
            try:
                found = read(file).modules
            except (CheckpointError, RefusedError):
                refused += 1
            else:
                # What is said of the file and numbers of layers may change; the shapes may not.
                assert [m.shape for m in found.values()] == [m.shape for m in wanted.values()]
    assert refused > 600


def entry(key: str = "k", shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    """A tensor of a header."""
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return struct.pack("<Q", len(key)) + key.encode() + dims + struct.pack("<IQ", kind, offset)


def header(entries: bytes, count: int = 1, values: bytes = b"", number: int = 0, version: int = 3) -> bytes:
    made = b"GGUF" + struct.pack("<IQQ", version, count, number) + values + entries
    return made + bytes(-len(made) % 32)


NAMED = struct.pack("<Q", 1) + b"v"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(entry(), version=1) + bytes(16), "of version 1, expected 2 or 3"),
        (header(entry(shape=(0,))), "tensor k is empty"),
        (header(entry(shape=(1, 1, 1, 1, 1))), "has 5 dimensions"),
        (header(entry(shape=(2**62, 2**62))), "is truncated: expected"),
        (header(entry(offset=32)) + bytes(64), "starts at byte 32, expected 0"),
        (header(entry() + entry(), 2) + bytes(64), "has a key twice"),
        (header(entry(kind=12)), "of ggml's type 12, expected f32"),
        (header(entry(kind=8)) + bytes(64), "in q8_0 has rows that no blocks of 32 fill"),
        (header(b"", 2**63), "truncated inside its header"),
        (header(b"", 0, b"", 2**63), "truncated inside its header"),
        (header(b"", 0, NAMED + struct.pack("<I", 77), 1), "unknown type 77"),
        (header(b"", 0, NAMED + struct.pack("<IIQ", 9, 9, 1), 1), "unknown type 9"),
        (header(b"", 0, NAMED + struct.pack("<IIQ", 9, 0, 2**63), 1), "truncated inside"),
        (header(b"", 0, NAMED + struct.pack("<IIQ", 9, 8, 2**63), 1), "truncated inside"),
        (header(b"", 0, NAMED + struct.pack("<IQ", 8, 1) + b"\xff", 1), "is no UTF-8"),
        (
            header(b"", 0, struct.pack("<Q", 17) + b"general.alignment" + struct.pack("<II", 4, 3), 1),
            "is 3, expected a",
        ),
    ],
)
def test_a_hostile_header_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises((CheckpointError, RefusedError), match=message):
        read(tmp_path / "a.gguf")
