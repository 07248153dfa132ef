"""A merged GGUF file is what llama.cpp's conversion makes of the model that PEFT's merge makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptzip.checkpoints._gguf.architectures import BY_MODEL_TYPE
from adaptzip.restoring.exporting import export
from adaptzip.restoring.merging import merge
from adaptzip.restoring.merging.gguf import writing
from tests.cases.gguf_bases import write_base
from tests.cases.gguf_copies import copied, numbers, opened, raw_values
from tests.cases.oracle_models import Case, make

FLOAT = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def in_dtype(folder: Path, to: Path, dtype: torch.dtype) -> Path:
    """A model's folder in another dtype."""
    to.mkdir()
    (to / "config.json").write_bytes((folder / "config.json").read_bytes())
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, to / "model.safetensors", {"format": "pt"})
    return to


def in_float32(folder: Path, to: Path) -> Path:
    """numpy has no bfloat16."""
    return in_dtype(folder, to, torch.float32)


def same_matrices(one: Path, other: Path) -> None:
    (_, found), (_, wanted) = opened(one), opened(other)
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        if tensor.data.ndim > 1:
            assert found[name].tensor_type == tensor.tensor_type
            assert np.array_equal(found[name].data, tensor.data), name


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma", "gpt2", "phi", "qwen2_moe"])
def test_it_is_the_conversion_of_pefts_merge(kind: str, tmp_path: Path) -> None:
    known = BY_MODEL_TYPE[kind]
    targets = tuple(module.rpartition(".")[2] for module in known.modules)
    case = make(tmp_path, kind, targets=targets, r=4, lora_alpha=6, fan_in_fan_out=known.transposed)
    base = write_base(case.base, tmp_path / "base.gguf", known.name)
    merge(case.adapter, case.base, tmp_path / "merged")
    wanted = write_base(tmp_path / "merged", tmp_path / "wanted.gguf", known.name)
    report = merge(case.adapter, base, tmp_path / "out.gguf")
    same_matrices(tmp_path / "out.gguf", wanted)
    (_, vectors), (_, kept) = opened(tmp_path / "out.gguf"), opened(base)
    assert all(np.array_equal(vectors[name].data, t.data) for name, t in kept.items() if t.data.ndim == 1)
    assert report.modules == len(known.modules) * 2
    assert report.rounding is None


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_floats_are_rounded_as_pefts_merge_rounds_them(kind: str, case: Case, tmp_path: Path) -> None:
    rounded = in_dtype(case.base, tmp_path / "rounded", FLOAT[kind])
    base = write_base(in_float32(rounded, tmp_path / "wide"), tmp_path / "base.gguf", kind=kind)
    merge(case.adapter, rounded, tmp_path / "merged")
    wanted = write_base(in_float32(tmp_path / "merged", tmp_path / "as32"), tmp_path / "wanted.gguf", kind=kind)
    merge(case.adapter, base, tmp_path / "out.gguf")
    same_matrices(tmp_path / "out.gguf", wanted)


def test_dora_and_an_embedding_of_its_own(tmp_path: Path) -> None:
    case = make(tmp_path, targets=("q_proj", "k_proj", "down_proj", "lm_head"), r=2, use_dora=True)
    plain = make(tmp_path / "plain", targets=("embed_tokens", "v_proj"), r=2)
    for number, one in enumerate((case, plain)):
        base = write_base(one.base, tmp_path / f"base{number}.gguf")
        merge(one.adapter, one.base, tmp_path / f"merged{number}")
        wanted = write_base(tmp_path / f"merged{number}", tmp_path / f"wanted{number}.gguf")
        merge(one.adapter, base, tmp_path / f"out{number}.gguf")
        same_matrices(tmp_path / f"out{number}.gguf", wanted)


def updates(case: Case, folder: Path) -> dict[str, torch.Tensor]:
    """The update of each tensor, by the factors of the LoRA in GGUF."""
    export(case.adapter, folder / "lora.gguf", as_="gguf", base=case.base)
    _, lora = opened(folder / "lora.gguf")
    a, b = ({n.removesuffix(end): torch.from_numpy(t.data.copy()) for n, t in lora.items() if n.endswith(end)}
            for end in (".lora_a", ".lora_b"))  # fmt: skip
    return {name: b[name] @ a[name] for name in a}


@pytest.mark.parametrize(("kind", "options"), [("Q8_0", "dequantise"), ("Q4_0", "dequantise"), ("Q8_0", "requantise")])
def test_quantised_weights(kind: str, options: str, case: Case, tmp_path: Path) -> None:
    base = write_base(case.base, tmp_path / "base.gguf", kind=kind)
    report = merge(
        case.adapter,
        base,
        tmp_path / "out.gguf",
        dequantise=options == "dequantise",
        requantise=options == "requantise",
    )
    deltas = updates(case, tmp_path)
    (_, before), (_, found) = opened(base), opened(tmp_path / "out.gguf")
    assert list(found) == list(before)
    lost = size = 0.0
    for name, tensor in before.items():
        exact = torch.from_numpy(numbers(tensor).copy())
        wanted = exact + deltas[name] if name in deltas else exact
        if name in deltas:
            written = torch.from_numpy(numbers(found[name]).copy()).double()
            lost += float((written - exact.double() - deltas[name].double()).square().sum())
            size += float(deltas[name].double().square().sum())
        if tensor.data.dtype != np.uint8 or (options == "requantise" and name not in deltas):
            assert found[name].tensor_type == tensor.tensor_type
            assert found[name].data.tobytes() == tensor.data.tobytes()
        elif options == "dequantise":
            assert found[name].tensor_type == gguf.GGMLQuantizationType.BF16
            close(numbers(found[name]), wanted.bfloat16().float().numpy(), 2**-8)
        else:
            assert found[name].tensor_type == gguf.GGMLQuantizationType.Q8_0
            again = gguf.quantize(wanted.numpy(), gguf.GGMLQuantizationType.Q8_0)
            assert np.mean(found[name].data != again) < 1e-3
    rounding = report.rounding
    assert rounding is not None
    assert rounding.kept == pytest.approx(1 - lost / size, abs=1e-6)
    assert rounding.worst is not None
    assert rounding.worst.startswith("model.layers.")
    assert rounding.worst_kept is not None
    assert rounding.kept is not None
    assert rounding.worst_kept <= rounding.kept


def close(found: Any, wanted: Any, last_place: float) -> None:
    """Equal but for a few numbers that another order of products brings to the other side of a rounding."""
    assert np.mean(found != wanted) < 1e-3
    assert np.all(np.abs(found - wanted) <= last_place * np.abs(wanted))


def test_all_that_the_base_says_of_itself_is_kept(case: Case, tmp_path: Path) -> None:
    types = gguf.GGUFValueType
    said: Mapping[str, tuple[Any, Any]] = {
        "general.tags": (["a", "é"], types.ARRAY),
        "own.number": (7, types.UINT8),
        "own.numbers": ([1.5, 2.5], types.ARRAY),
        "own.flag": (True, types.BOOL),
        "split.count": (0, types.UINT16),
    }
    plain = write_base(case.base, tmp_path / "plain.gguf", kind="Q8_0")
    base = copied(plain, tmp_path / "base.gguf", values=said)
    report = merge(case.adapter, base, tmp_path / "out.gguf", dequantise=True)
    before, after = raw_values(base), raw_values(tmp_path / "out.gguf")
    assert list(after) == [key for key in before if key != "split.count"] + ["adaptzip.merge"]
    changed = [key for key, value in before.items() if key != "split.count" and after[key] != value]
    assert changed == ["general.file_type"]
    values, _ = opened(tmp_path / "out.gguf")
    assert values["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16
    told = json.loads(values["adaptzip.merge"])
    assert told["base"]["name"] == "base.gguf"
    assert told["adapters"][0]["name"] == "adapter"
    assert told["options"]["quantised"] == "dequantised"
    assert report.tokenizer == "base"
    assert report.as_dict()["rounding"] == told["rounding"]


def test_merged_again_it_tells_of_the_last_time(case: Case, tmp_path: Path) -> None:
    base = write_base(case.base, tmp_path / "base.gguf")
    merge(case.adapter, base, tmp_path / "once.gguf")
    merge(case.adapter, tmp_path / "once.gguf", tmp_path / "none.gguf", scale=-1)
    told = json.loads(opened(tmp_path / "none.gguf")[0]["adaptzip.merge"])
    assert told["options"]["scale"] == -1
    assert told["base"]["name"] == "once.gguf"
    (_, before), (_, after) = opened(base), opened(tmp_path / "none.gguf")
    assert all(np.allclose(after[name].data, tensor.data, atol=1e-6) for name, tensor in before.items())


def test_blocks_of_rows_make_the_same(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_base(case.base, tmp_path / "base.gguf", kind="Q8_0")
    steps: list[tuple[str, float, float]] = []
    for name, block in (("whole", writing.BLOCK), ("parts", 64)):
        monkeypatch.setattr(writing, "BLOCK", block)
        merge(case.adapter, base, tmp_path / f"{name}.gguf", dequantise=True, progress=lambda *step: steps.append(step))
    assert (tmp_path / "whole.gguf").read_bytes() == (tmp_path / "parts.gguf").read_bytes()
    assert steps == [("merging", number + 1, 21) for number in range(21)] * 2


def test_several_files_become_one(case: Case, tmp_path: Path) -> None:
    base = write_base(case.base, tmp_path / "base.gguf", kind="Q8_0")
    copied(base, tmp_path / "parts.gguf", files=8)
    merge(case.adapter, base, tmp_path / "one.gguf", requantise=True)
    merge(case.adapter, tmp_path / "parts-00001-of-00003.gguf", tmp_path / "out.gguf", requantise=True)
    (_, wanted), (values, found) = opened(tmp_path / "one.gguf"), opened(tmp_path / "out.gguf")
    assert {n: t.data.tobytes() for n, t in found.items()} == {n: t.data.tobytes() for n, t in wanted.items()}
    assert not [key for key in values if key.startswith("split.")]


@pytest.mark.parametrize("heads", [True, False])
def test_a_lora_in_gguf_is_merged_as_well(heads: bool, case: Case, tmp_path: Path) -> None:
    """convert_lora_to_gguf.py does not write the numbers of heads, which the base tells."""
    base = write_base(case.base, tmp_path / "base.gguf")
    export(case.adapter, tmp_path / "whole.gguf", as_="gguf", base=case.base)
    without = {f"llama.attention.head_count{of}": None for of in ("", "_kv")}
    lora = copied(tmp_path / "whole.gguf", tmp_path / "lora.gguf", values={} if heads else without)  # type: ignore[arg-type]
    merge(lora, base, tmp_path / "found.gguf")
    merge(case.adapter, base, tmp_path / "wanted.gguf")
    (_, found), (_, wanted) = opened(tmp_path / "found.gguf"), opened(tmp_path / "wanted.gguf")
    assert all(np.allclose(found[name].data, tensor.data, atol=1e-6) for name, tensor in wanted.items())


def test_export_takes_a_base_in_gguf_too(case: Case, tmp_path: Path) -> None:
    base = write_base(case.base, tmp_path / "base.gguf")
    export(case.adapter, tmp_path / "by_file.gguf", as_="gguf", base=base)
    export(case.adapter, tmp_path / "by_folder.gguf", as_="gguf", base=case.base)
    assert (tmp_path / "by_file.gguf").read_bytes() == (tmp_path / "by_folder.gguf").read_bytes()
