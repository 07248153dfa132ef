"""A `.adz` is vetted as a folder is: one cause, one exit code, and nothing that is no plain update comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import adaptzip
from adaptzip.adz.coding.packing import pack_factors, pack_tensors
from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.compressed import Compressed
from adaptzip.errors import AdaptzipError, CheckpointError, FormatError, RefusedError
from adaptzip.reports.verifying import verify
from adaptzip.restoring.exporting import export
from adaptzip.testing.adapters import adapter, factors
from tests.cases.exported import assert_merges_alike
from tests.cases.tiny_peft import llama, train

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
NAME = "layers.0.q_proj"
CONSUMERS: dict[str, Callable[[Path, Path], Any]] = {
    "reconstruct": lambda path, _: adaptzip.reconstruct(path),
    "read": lambda path, _: adaptzip.read(path),
    "verify": lambda path, _: verify(path),
    "export": lambda path, out: export(path, out),
    "portable": lambda path, out: export(path, out, portable=True),
    "merge": lambda path, out: adaptzip.merge(path, base(path.parent / "base"), out),
}


def small() -> Adapter:
    return adapter({NAME: (8, 6, 2)}, config=CONFIG)


def base(path: Path) -> Path:
    """A base model that has the adapter's module."""
    path.mkdir(exist_ok=True)
    save_file({f"{NAME}.weight": torch.ones(8, 6)}, path / "model.safetensors")
    (path / "config.json").write_text("{}")
    return path


def written_and_read(compressed: Compressed, path: Path) -> Adapter:
    writer.write(compressed, path)
    return adaptzip.reconstruct(path)


def header(*offsets: list[int], metadata: dict[str, Any]) -> bytes:
    """A safetensors header of the adapter's two factors."""
    shapes = {"A": [2, 6], "B": [8, 2]}
    entries = {
        f"base_model.model.{NAME}.lora_{side}.weight": {"dtype": "F32", "shape": shape, "data_offsets": place}
        for (side, shape), place in zip(shapes.items(), offsets, strict=True)
    }
    return json.dumps({"__metadata__": metadata, **entries}).encode()


def folder(tmp_path: Path, config: dict[str, Any]) -> Path:
    """The same adapter as PEFT saves one."""
    module = small().modules[NAME]
    stem = f"base_model.model.{NAME}"
    save_file({f"{stem}.lora_A.weight": module.A, f"{stem}.lora_B.weight": module.B}, tmp_path / "a.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"init_lora_weights": "olora"}, "OLoRA changes the base weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "PiSSA changes the base weights"),
        ({"init_lora_weights": {"a": 1}}, "which is unknown"),
        ({"peft_type": "IA3"}, "peft_type is IA3"),
        ({"peft_type": "LORA.*"}, "expected LORA"),
        ({"peft_type": 31}, "expected text"),
        ({"task_type": [1, 2]}, "task_type is"),
        ({"lookahead": True}, "lookahead is set, which is unknown"),
        ({"lookahead_config": {"k": 5}}, "lookahead_config is set, which is unknown"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"),
        ({"kasa_config": {"a": 1}}, "KaSA"),
        ({"use_bdlora": True}, "BD-LoRA"),
        ({"use_dora": True}, "has no magnitude, but use_dora is set"),
        ({"lora_bias": True}, "has no bias, but lora_bias is set"),
        ({"trainable_token_indices": [1]}, "no rows for these tokens"),
        ({"r": "8"}, "r is '8'"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'"),
        ({"modules_to_save": 5}, "modules_to_save is 5"),
        ({"modules_to_save": ["("]}, "modules_to_save has '\\('"),
        ({"rank_pattern": {"(?i)q_proj": 2}}, "rank_pattern has .*no regular expression"),
        ({"alpha_pattern": {"(" * 3000 + ")" * 3000: 2}}, "alpha_pattern has .*no regular expression"),
        ({"layers_pattern": "(", "layers_to_transform": [0]}, "layers_pattern has .*no regular expression"),
        ({"target_modules": "q_(proj"}, "target_modules has .*no regular expression"),
    ],
)
def test_a_configuration_is_refused_in_a_file_as_beside_weights(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(AdaptzipError, match=told) as expected:
        adaptzip.read(folder(tmp_path, CONFIG | change))
    made = adaptzip.compress(small(), max_error=0.3)
    writer.write(replace(made, meta=replace(made.meta, config=CONFIG | change)), tmp_path / "x.adz")
    for consumer in CONSUMERS.values():
        with pytest.raises(AdaptzipError, match=told) as caught:
            consumer(tmp_path / "x.adz", tmp_path / "out")
        assert caught.value.exit_code == expected.value.exit_code
        assert "x.adz" in str(caught.value)
        assert not (tmp_path / "out").exists()
    with pytest.raises(AdaptzipError, match=told):
        adaptzip.compress(replace(small(), meta=replace(small().meta, config=CONFIG | change)))


@pytest.mark.parametrize(
    "change",
    [
        {"init_lora_weights": "gaussian"},
        {"fan_in_fan_out": True},
        {"layers_pattern": "(layers|h)", "layers_to_transform": [0, 1]},
        {"exclude_modules": ["q_proj"]},
        {"target_modules": ["elsewhere"]},
        {"use_rslora": True, "rank_pattern": {"q_proj": 7}},
        {"peft_type": None},
        {},
    ],
)
def test_what_a_configuration_says_wrong_is_put_right(change: dict[str, Any], tmp_path: Path) -> None:
    trained = train(llama(), tmp_path / "source", r=2, lora_alpha=3, target_modules=["q_proj"])
    made = adaptzip.compress(tmp_path / "source", lossless=True)
    config = {key: value for key, value in (dict(made.meta.config) | change).items() if value is not None}
    changed = replace(made, meta=replace(made.meta, config=config, config_text=json.dumps(config)))
    writer.write(changed, tmp_path / "x.adz")
    export(tmp_path / "x.adz", tmp_path / "out")
    assert_merges_alike(llama, trained, tmp_path / "out")


def test_an_update_within_a_module_that_is_saved_whole_is_refused(tmp_path: Path) -> None:
    """PEFT leaves such a LoRA out without a word."""
    source = replace(small(), meta=replace(small().meta, config=CONFIG | {"modules_to_save": ["q_proj"]}))
    with pytest.raises(RefusedError, match="lies in q_proj, which modules_to_save names"):
        export(source, tmp_path / "out")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([[float("nan"), 0.0], [0.0, 1.0]]),
        torch.tensor([[float("inf"), 0.0], [0.0, 1.0]]).bfloat16(),
        torch.ones(2, 2, dtype=torch.int8),
        torch.ones(2, 2, dtype=torch.bool),
        torch.ones(2, 2).to(torch.float8_e5m2),
    ],
    ids=["nan", "infinite", "whole", "truth", "float8"],
)
def test_factors_that_are_no_finite_numbers_are_refused(tensor: Tensor, tmp_path: Path) -> None:
    good = Adapter({NAME: LoraFactors(torch.ones(2, 2), torch.ones(3, 2))})
    made = adaptzip.compress(good, lossless=True)
    bad = LoraFactors(tensor, torch.ones(3, 2))
    writer.write(replace(made, chunks=[pack_factors(bad)]), tmp_path / "x.adz")
    for consumer in CONSUMERS.values():
        with pytest.raises(FormatError, match=f"'{NAME}'") as caught:
            consumer(tmp_path / "x.adz", tmp_path / "out")
        assert caught.value.exit_code == 2
        assert not (tmp_path / "out").exists()
    for lossless in (False, True):
        with pytest.raises(CheckpointError, match=NAME):
            adaptzip.compress(Adapter({NAME: bad}), lossless=lossless)
    with pytest.raises(CheckpointError, match=NAME):
        export(Adapter({NAME: bad}), tmp_path / "out")


def test_a_magnitude_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    made = adaptzip.compress(small(), max_error=0.3)
    broken = pack_tensors([("magnitude", NAME, torch.full((8,), float("nan")))])
    writer.write(replace(made, extras=broken), tmp_path / "x.adz")
    with pytest.raises(FormatError, match="magnitude of .* NaN"):
        adaptzip.reconstruct(tmp_path / "x.adz")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ((f"base_model.model.{NAME}.lora_A.weight",), "named as a part of a module's factors"),
        ((f"base_model.model.{NAME}.lora_magnitude_vector",), "named as a part of a module's factors"),
        ((f"{NAME}.lora_B.weight",), "named as a part of a module's factors"),
        (("lora_embedding_A",), "named as a part of a module's factors"),
        ((f"base_model.model.{NAME}_lora_latent_mapping.weight",), "named as a part of a module's factors"),
        (("base_model.model.m.lokr_w1",), "belongs to LoKr"),
        (("base_model.model.score.weight", "score.weight"), "mean the same tensor"),
    ],
)
def test_an_extra_that_means_something_else_is_refused(keys: tuple[str, ...], told: str, tmp_path: Path) -> None:
    extras = dict.fromkeys(keys, torch.ones(2, 6))
    source = replace(small(), extras=extras)
    for attempt in (
        lambda: adaptzip.compress(source, tmp_path / "x.adz", max_error=0.3),
        lambda: export(source, tmp_path / "out"),
    ):
        with pytest.raises(AdaptzipError, match=f"{told}|named as a part|has no meaning"):
            attempt()
    made = adaptzip.compress(small(), max_error=0.3)
    hostile = replace(made, extras=pack_tensors([("extra", key, tensor) for key, tensor in extras.items()]))
    with pytest.raises(AdaptzipError, match=told):
        written_and_read(hostile, tmp_path / "y.adz")
    assert not (tmp_path / "out").exists()


def test_an_extra_without_meaning_to_peft_is_kept_in_a_file_and_not_exported(tmp_path: Path) -> None:
    source = replace(small(), extras={"steps": torch.tensor(7)})
    adaptzip.compress(source, tmp_path / "x.adz", max_error=0.3)
    assert adaptzip.reconstruct(tmp_path / "x.adz").extras["steps"] == 7
    with pytest.raises(CheckpointError, match="steps has no meaning in a PEFT LoRA"):
        export(tmp_path / "x.adz", tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["m.w[00]", "m.w[01]", "m.w[\u0663]", "m.w[-1]", "m.w[1000000]", "m.w", "[1]", "m.w[]"]
)
def test_experts_have_one_spelling(name: str, tmp_path: Path) -> None:
    modules = {"m.w[0]": factors(4, 6, 1, layout="expert"), name: factors(4, 6, 1, seed=1, layout="expert")}
    with pytest.raises(FormatError, match="is not named PARAMETER"):
        adaptzip.compress(Adapter(modules), tmp_path / "x.adz", max_error=0.3)
    with pytest.raises(CheckpointError, match="is not named PARAMETER"):
        export(Adapter(modules), tmp_path / "out")


def test_a_module_named_as_an_experts_parameter_is_refused(tmp_path: Path) -> None:
    modules = {"m.w": factors(4, 6, 1), "m.w[0]": factors(4, 6, 1, layout="expert")}
    with pytest.raises(FormatError, match=r"'m\.w' is a module, and has experts"):
        adaptzip.compress(Adapter(modules), tmp_path / "x.adz", max_error=0.3)


@pytest.mark.parametrize(
    ("modules", "error", "told"),
    [
        ({"m": factors(4, 6, 1), "m.w[0]": factors(4, 6, 1, layout="expert")}, RefusedError, "would have the key"),
        (
            {"m.w[0]": factors(4, 6, 1, layout="expert"), "m.w[1]": factors(5, 6, 1, layout="expert")},
            CheckpointError,
            r"its experts are \[4, 6\] expert and \[5, 6\] expert",
        ),
        ({"": factors(4, 6, 1)}, RefusedError, "module '' has a name"),
        ({"m.base_layer": factors(4, 6, 1)}, RefusedError, "has a name that PEFT gives"),
        (
            {f"m.w{i}[0]": factors(4, 6, 1, layout="expert") for i in range(2000)},
            RefusedError,
            "cannot tell the order of its 2000 parameters",
        ),
    ],
)
def test_modules_that_peft_cannot_tell_apart_are_refused(
    modules: dict[str, LoraFactors], error: type[AdaptzipError], told: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=told):
        export(Adapter(modules), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "source_header",
    [
        b"{not json",
        b"\xb7\x10",
        b"[1, 2]",
        b'{"a": ' + b"[" * 5000,
        b'{"base_model.model.layers.0.q_proj.lora_A.weight": {}}',
        b'{"base_model.model.layers.0.q_proj.lora_A.weight": "x"}',
        header([0, 48], [0, 64], metadata={}),
        header([0, 48], [48, 112], metadata={"a": 1}),
    ],
)
def test_a_source_header_that_is_none_is_not_used(source_header: bytes, tmp_path: Path) -> None:
    made = adaptzip.compress(small(), lossless=True)
    writer.write(replace(made, meta=replace(made.meta, header=source_header)), tmp_path / "x.adz")
    export(tmp_path / "x.adz", tmp_path / "out")
    again = adaptzip.read(tmp_path / "out").modules[NAME]
    assert torch.equal(again.A, small().modules[NAME].A)
    assert torch.equal(again.B, small().modules[NAME].B)
