"""What cannot be merged into a GGUF file is refused by name, and no file makes it fail in another way."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipError, BaseModelError, CheckFailedError, RefusedError, UsageError
from adaptzip.restoring.merging import merge
from adaptzip.restoring.merging.gguf.base import open_base
from adaptzip.restoring.merging.gguf.plan import plan_merge
from adaptzip.testing.adapters import factors
from tests.cases.gguf_bases import write_base
from tests.cases.gguf_copies import copied, opened
from tests.cases.oracle_models import Case

TYPES = gguf.GGUFValueType
KINDS = gguf.GGMLQuantizationType
UP = "model.layers.0.mlp.up_proj"
STRING, UINT = TYPES.STRING, TYPES.UINT32


@pytest.fixture(scope="module")
def base(case: Case) -> Path:
    return write_base(case.base, case.base.parent / "base.gguf")


def of(name: str = UP, out: int = 96, width: int = 64, **changes: Any) -> Adapter:
    return Adapter({name: replace(factors(out, width, 2), **changes)})


def refused(adapter: Adapter, base: Path, message: str, error: type[AdaptzipError], **options: Any) -> AdaptzipError:
    """The error, which names the file, and after which there is no output."""
    output = base.parent / "refused.gguf"
    with pytest.raises(error, match=message) as caught:
        merge(adapter, base, output, **options)
    assert "\n" not in str(caught.value)
    assert not output.exists()
    return caught.value


@pytest.mark.parametrize(
    ("adapter", "message", "error"),
    [
        (of("model.layers.0.mlp.experts.0.up_proj"), "0.up_proj has no tensor of its own in llama", RefusedError),
        (of("model.layers.7.mlp.up_proj"), "has no blk.7.ffn_up.weight .*, and nothing of that layer", BaseModelError),
        (of(out=64), r"blk.0.ffn_up.weight is \[96, 64\], the adapter's .*up_proj expects \[64, 64\]", BaseModelError),
        (of(bias=torch.ones(96)), "the LoRA bias of the module", RefusedError),
        (of(layout="expert"), "an update of the layout 'expert' of the module", RefusedError),
        (of(magnitude=torch.ones(1, 64)), "a DoRA magnitude for each input of the module", RefusedError),
        (of("model.embed_tokens", 64, 96), "an update of the layout 'linear' of the module model.emb", RefusedError),
        (
            Adapter({UP: factors(96, 64, 2)}, {"base_model.model.model.norm.weight": torch.ones(64)}),
            "updates alone are merged into GGUF, and the adapter brings base_model.model.model.norm.weight",
            RefusedError,
        ),
        (
            Adapter({UP: factors(96, 64, 2)}, meta=Meta(config={"layer_replication": [[0, 2], [1, 2]]})),
            "layer_replication makes other layers than it has",
            RefusedError,
        ),
        (
            Adapter({name: factors(96, 64, 2) for name in (UP, UP.replace("model.", "model.language_model.", 1))}),
            "are both blk.0.ffn_up.weight",
            RefusedError,
        ),
    ],
)  # fmt: skip
def test_what_has_no_place(adapter: Adapter, message: str, error: type[AdaptzipError], base: Path) -> None:
    refused(adapter, base, message, error)


def test_names_of_models_that_see_images(base: Path, tmp_path: Path) -> None:
    update = factors(96, 64, 2)
    for number, name in enumerate((UP, f"language_model.{UP}", UP.replace("model.", "model.language_model.", 1))):
        merge(Adapter({name: update}), base, tmp_path / f"{number}.gguf")
    tensors = [opened(tmp_path / f"{number}.gguf")[1]["blk.0.ffn_up.weight"].data for number in range(3)]
    assert np.array_equal(tensors[0], tensors[1])
    assert np.array_equal(tensors[0], tensors[2])
    assert not np.array_equal(tensors[0], opened(base)[1]["blk.0.ffn_up.weight"].data)
    seeing = of("model.vision_tower.layers.0.mlp.up_proj")
    refused(seeing, base, "vision_tower.layers.0.mlp.up_proj has no tensor of its own", RefusedError)


def test_one_tensor_for_embedding_and_head(base: Path, tmp_path: Path) -> None:
    tied = copied(base, tmp_path / "tied.gguf", tensors={"output.weight": None})
    embedding = of("model.embed_tokens", 64, 96, layout="embedding")
    for adapter in (embedding, of("lm_head")):
        refused(adapter, tied, "has one tensor for its embedding and its head", RefusedError)


@pytest.mark.parametrize(
    ("values", "tensors", "message", "error"),
    [
        ({"general.type": ("adapter", STRING)}, {}, "general.type is 'adapter', expected 'model'", RefusedError),
        ({"general.architecture": ("bloom", STRING)}, {}, "'bloom'; adapters are merged into", RefusedError),
        ({"general.alignment": (3, UINT)}, {}, "alignment is 3, expected a power of two", BaseModelError),
        ({"split.count": (2, UINT)}, {}, "is one of 2 files, whose names should end with", RefusedError),
        ({}, {"blk.0.ffn_up.weight": None}, "has no blk.0.ffn_up.* only blk.0.attn_k.weight", BaseModelError),
        ({}, {"blk.0.ffn_up.scale": np.ones(1, np.float32)}, "is multiplied by blk.0.ffn_up.scale", RefusedError),
        ({}, {"blk.0.ffn_up.weight": np.ones((96, 64), np.int8)}, "up.weight is I8, expected F32, F16", RefusedError),
    ],
)  # fmt: skip
def test_another_base(
    values: Any, tensors: Any, message: str, error: type[AdaptzipError], base: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    if "general.alignment" in values:
        as_it_was, odd = b"general.file_type\x04\0\0\0\0", b"general.alignment\x04\0\0\0\x03"
        other.write_bytes(base.read_bytes().replace(as_it_was, odd))
    else:
        copied(base, other, values=values, tensors=tensors)
    refused(of(), other, message, error)


def test_rows_that_are_turned_want_one_number_of_heads(base: Path, tmp_path: Path) -> None:
    query, key = "model.layers.0.self_attn.q_proj", "llama.attention.head_count"
    for number, value in enumerate((None, ([8, 8], TYPES.ARRAY), (0, UINT))):
        other = copied(base, tmp_path / f"{number}.gguf", values={key: value})  # type: ignore[dict-item]
        refused(of(query, 64), other, f"{key} is no one number for all layers", RefusedError)
    other = copied(base, tmp_path / "odd.gguf", values={key: (7, UINT)})
    refused(of(query, 64), other, "has 64 rows, which are not of 7 heads", BaseModelError)


def test_quantised_bases(case: Case, tmp_path: Path) -> None:
    base = write_base(case.base, tmp_path / "q4.gguf", kind="Q4_0")
    error = refused(of(), base, "is quantised: blk.0.ffn_up.weight, which the adapter changes, is Q4_0", RefusedError)
    assert "`dequantise=True`" in str(error.hint)
    assert "`requantise=True`" in str(error.hint)
    told = "ffn_up.weight is Q4_0, and changed weights are quantised"
    error = refused(of(), base, told, RefusedError, requantise=True)
    assert "`dequantise=True`" in str(error.hint)
    refused(of(), base, "not both", UsageError, dequantise=True, requantise=True)
    mixed = copied(base, tmp_path / "mixed.gguf", tensors={"blk.0.ffn_up.weight": np.ones((96, 64), np.float16)})
    merge(of(), mixed, tmp_path / "out.gguf")
    (_, before), (_, after) = opened(mixed), opened(tmp_path / "out.gguf")
    changed = [name for name in before if before[name].data.tobytes() != after[name].data.tobytes()]
    assert changed == ["blk.0.ffn_up.weight"]
    unknown = {"blk.0.ffn_gate.weight": (np.zeros((96, 80), np.uint8), None, KINDS.Q8_1)}
    other = copied(mixed, tmp_path / "q8_1.gguf", tensors=unknown)
    told = "ffn_gate.weight is Q8_1, which the package gguf cannot dequantise"
    refused(of(), other, told, RefusedError, dequantise=True)


def test_a_base_of_floats_has_nothing_to_dequantise(base: Path) -> None:
    error = refused(of(), base, "base.gguf: is not quantised", UsageError, dequantise=True)
    assert error.hint == "leave `dequantise=True` out"


def test_numbers_that_are_none(base: Path, tmp_path: Path) -> None:
    nan = np.full((96, 64), np.nan, np.float32)
    broken = copied(base, tmp_path / "nan.gguf", tensors={"blk.0.ffn_up.weight": nan})
    refused(of(), broken, "ffn_up.weight holds NaN or infinity in the base already", CheckFailedError)
    report = merge(of(UP.replace("up", "gate")), broken, tmp_path / "out.gguf")
    told = "NaN or infinity in blk.0.ffn_up.weight: the base holds it and the adapter does not change it"
    assert report.warnings == (told,)
    narrow = copied(base, tmp_path / "f16.gguf", tensors={"blk.0.ffn_up.weight": np.ones((96, 64), np.float16)})
    huge = Adapter({UP: LoraFactors(torch.full((1, 64), 1e3), torch.full((96, 1), 1e3))})
    refused(huge, narrow, "merging makes NaN or infinity in blk.0.ffn_up.weight, a F16", CheckFailedError)


def test_outputs_and_options(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a base in GGUF is merged into one file"):
        merge(of(), base, tmp_path / "folder")
    with pytest.raises(UsageError, match="the output would replace the base model"):
        merge(of(), base, base, force=True)
    for option in ("untie", "safe_merge"):
        refused(of(), base, "is for bases in folders", UsageError, **{option: True})
    refused(of(), base.with_name("none.gguf"), "none.gguf: does not exist", BaseModelError)
    (tmp_path / "text.gguf").write_text("none")
    refused(of(), tmp_path / "text.gguf", "is no GGUF file", BaseModelError)
    merge(of(), base, tmp_path / "out.gguf")
    with pytest.raises(AdaptzipError, match="exists already"):
        merge(of(), base, tmp_path / "out.gguf")
    merge(of(), base, tmp_path / "out.gguf", force=True)


def test_files_of_a_model_belong_together(base: Path, tmp_path: Path) -> None:
    copied(base, tmp_path / "m.gguf", files=8)
    first, second, third = (tmp_path / f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3))
    error = refused(of(), second, "is file 2 of 3", RefusedError)
    assert error.hint == "give the first: m-00001-of-00003.gguf"
    content = third.read_bytes()
    third.write_bytes(second.read_bytes())
    refused(of(), first, "does not say that it is file 3 of 3", BaseModelError)
    third.unlink()
    refused(of(), first, "m-00003-of-00003.gguf: does not exist", BaseModelError)
    third.write_bytes(content)
    with pytest.raises(UsageError, match="would replace the base model"):
        merge(of(), first, third, force=True)
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(first.read_bytes())
    refused(of(), alone, "is one of 3 files, whose names should end with -00001-of-00003.gguf", RefusedError)


def test_without_the_library_the_package_to_install_is_named(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    error = refused(of(), base, "GGUF needs the package gguf", RefusedError)
    assert error.hint == "pip install 'adaptzip[gguf]'"


def test_a_file_that_is_cut_anywhere(base: Path, tmp_path: Path) -> None:
    whole, cut = base.read_bytes(), tmp_path / "cut.gguf"
    for end in (*range(4, 3000, 61), len(whole) // 2, len(whole) - 1):
        cut.write_bytes(whole[:end])
        refused(of(), cut, re.escape(str(cut)), BaseModelError)


def test_a_header_of_any_bytes(base: Path, tmp_path: Path) -> None:
    """Counts, lengths, types, dimensions and places among them, each made huge or small."""
    whole, file, told = base.read_bytes(), tmp_path / "wrong.gguf", []
    infos = whole.index(b"token_embd.weight") - 8
    for position in (*range(4, 100), *range(infos, infos + 130)):
        for value in (0x00, 0xFF):
            file.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            try:
                plan_merge(of(), open_base(file))
            except (BaseModelError, RefusedError) as error:
                told.append(str(error))
    assert len(told) > 200
    assert all(str(file) in message for message in told)
