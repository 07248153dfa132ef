"""What is no plain LoRA is refused by name, and what is broken is named in one line with a hint."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftType
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.checkpoints.peft import refusals
from adaptzip.errors import AdaptzipError, AdaptzipWarning, CheckpointError, RefusedError, UsageError
from adaptzip.restoring.opening import source_bytes
from adaptzip.restoring.reading import read

_STEM = "base_model.model.model.layers.0.self_attn.q_proj"
_CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


def factors(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    return {f"{_STEM}.lora_A.weight": a, f"{_STEM}.lora_B.weight": b}


def tensors(**more: Tensor) -> dict[str, Tensor]:
    return factors(torch.ones(2, 4), torch.ones(3, 2)) | more


def save(folder: Path, weights: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(_CONFIG | config))
    return folder


def failure(error: type[AdaptzipError], folder: Path, **options: Any) -> str:
    with pytest.raises(error) as caught:
        read(folder, **options)
    message = str(caught.value)
    assert "\n" not in message
    return f"{message} | {caught.value.hint}"


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"init_lora_weights": "corda"}, "CorDA"),
        ({"init_lora_weights": "lora_ga"}, "LoRA-GA"),
        ({"init_lora_weights": "loftq"}, "LoftQ"),
        ({"init_lora_weights": "new_idea"}, "'new_idea', which is unknown"),
        ({"kasa_config": {"beta": 1.0}}, "KaSA"),
        ({"kasa_config": {}}, "KaSA"),
        ({"arrow_config": {"top_k": 2}}, "Arrow"),
        ({"monteclora_config": {}}, "MonteCLoRA"),
        ({"monteclora_config": {"num_samples": 8}}, "MonteCLoRA"),
        ({"use_qalora": True}, "QALoRA"),
        ({"enable_lora": [True, False, True]}, "MergedLinear"),
        ({"use_something_new": True}, "use_something_new is set, which is unknown"),
        ({"something_config": {"a": 1}}, "something_config is set, which is unknown"),
    ],
)
def test_configuration_is_refused(config: dict[str, Any], named: str, tmp_path: Path) -> None:
    message = failure(RefusedError, save(tmp_path, tensors(), **config))
    assert named in message
    assert "None" not in message.partition("|")[2]


@pytest.mark.parametrize(
    "config",
    [
        {"velora_config": {"num_groups": 64}},
        {"eva_config": {"rho": 2.0}, "init_lora_weights": "eva"},
        {
            "something_new": None,
            "something_size": 16,
            "something_mode": "fast",
            "use_other": False,
            "list": [],
        },
        {"qalora_group_size": 16, "megatron_core": "megatron.core", "_private": True},
    ],
)
def test_configuration_that_leaves_the_update_alone_is_read(config: dict[str, Any], tmp_path: Path) -> None:
    assert read(save(tmp_path, tensors(), **config)).modules["model.layers.0.self_attn.q_proj"].scaling == 2.0


@pytest.mark.parametrize("kind", sorted(set(PeftType) - {PeftType.LORA}))
def test_every_other_peft_type_is_refused_by_name(kind: PeftType, tmp_path: Path) -> None:
    assert f"peft_type is {kind.value}, expected LORA" in failure(
        RefusedError, save(tmp_path, tensors(), peft_type=kind.value)
    )


def test_every_field_of_the_installed_peft_is_known() -> None:
    """A field that a new PEFT adds must be judged here: does it change what the tensors mean?"""
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields <= refusals._KNOWN | set(refusals._VARIANTS)


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("base_model.model.a.q_proj.lora_A.layer.tensor.factors.0", "LoRETTA"),
        (f"{_STEM}.lora_diag", "KaSA"),
        (f"{_STEM}.lora_E", "AdaLoRA"),
        (f"{_STEM}.vblora_logits_A", "VB-LoRA"),
        ("base_model.model.attn.base_layer.out_proj.lora_A.weight", "MultiheadAttention"),
    ],
)
def test_keys_of_another_method_are_refused(key: str, named: str, tmp_path: Path) -> None:
    message = failure(RefusedError, save(tmp_path, tensors(**{key: torch.ones(2, 2)})))
    assert named in message
    assert key in message


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        (f"{_STEM}.lora_C.weight", "expected base_model.model"),
        ("something.else", "expected base_model.model"),
        ("base_model.bank", "expected base_model.model"),
    ],
)
def test_keys_without_a_meaning_are_named(key: str, hint: str, tmp_path: Path) -> None:
    message = failure(CheckpointError, save(tmp_path, tensors(**{key: torch.ones(2, 2)})))
    assert key in message
    assert hint in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({f"{_STEM}.lora_B.weight": None}, "but no lora_B"),
        ({f"{_STEM}.lora_A.weight": None}, "but no lora_A"),
        ({f"{_STEM}.lora_B.weight": torch.ones(3, 5)}, "has A [2, 4] and B [3, 5]"),
        ({f"{_STEM}.lora_A.weight": torch.ones(8)}, "has A [8] and B [3, 2]"),
        (factors(torch.ones(0, 4), torch.ones(3, 0)), "has A [0, 4]"),
        (factors(torch.ones(5, 4), torch.ones(3, 5)), "has rank 5"),
        ({f"{_STEM}.lora_A.weight": torch.full((2, 4), float("nan"))}, "lora_A.weight holds NaN or"),
        ({f"{_STEM}.lora_B.weight": torch.full((3, 2), -float("inf"))}, "lora_B.weight holds NaN or"),
        ({f"{_STEM}.lora_B.weight": torch.ones(3, 2, dtype=torch.int8)}, "lora_B.weight is int8"),
        ({f"{_STEM}.lora_magnitude_vector": torch.ones(3)}, "use_dora is not set"),
        ({f"{_STEM}.lora_B.bias": torch.ones(3)}, "lora_bias is not set"),
        ({f"{_STEM}.lora_A.weight": torch.ones(2, 4, 3)}, "expected a convolution's A"),
    ],
)  # fmt: skip
def test_malformed_factors_are_named(change: dict[str, Tensor | None], expected: str, tmp_path: Path) -> None:
    weights = {key: tensor for key, tensor in (tensors() | change).items() if tensor is not None}
    assert expected in failure(CheckpointError, save(tmp_path, weights))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"use_dora": True}, "has no magnitude, but use_dora is set"),
        ({"lora_bias": True}, "has no bias, but lora_bias is set"),
        ({"r": 0}, "r is 0, expected a whole number"),
        ({"r": 2.0}, "r is 2.0, expected a whole number"),
        ({"lora_alpha": "big"}, "lora_alpha is 'big', expected a number"),
        ({"rank_pattern": {"q_proj": True}}, "rank_pattern['q_proj'] is True"),
        ({"rank_pattern": {"q_(proj": 2}}, "which is no regular expression"),
        ({"alpha_pattern": [1]}, "alpha_pattern is [1]"),
        ({"peft_type": None}, "has no peft_type"),
        ({"lora_alpha": 10**400}, "000..., expected a number below 1e+30"),
        ({"use_rslora": "false"}, "use_rslora is 'false', expected true or false"),
        ({"fan_in_fan_out": "no"}, "fan_in_fan_out is 'no', expected true or false"),
        ({"rank_pattern": {"(?i)q_proj": 2}}, "which is no regular expression that PEFT can use"),
        ({"alpha_pattern": {"(" * 2000 + ")" * 2000: 2}}, "..., which is no regular expression that PEFT can use"),
        ({"layers_pattern": "("}, "layers_pattern has '(', which is no regular expression"),
        ({"layers_pattern": ["h", "(l"]}, "layers_pattern has '(l', which is no regular expression that PEFT can use"),
        ({"r": 10**400}, "expected a whole number"),
        ({"target_modules": 5}, "target_modules is 5, expected module names or a pattern"),
        ({"target_modules": "q_(proj"}, "which is no regular expression"),
        ({"target_parameters": "experts"}, "target_parameters is 'experts', expected parameter names"),
        ({"layers_to_transform": "1"}, "layers_to_transform is '1', expected layer numbers"),
        ({"trainable_token_indices": {"a": "b"}}, "expected token numbers"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path is 3"),
        ({"trainable_token_indices": [1]}, "there are no rows for these tokens"),
    ],
)
def test_malformed_configuration_is_named(config: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert expected in failure(CheckpointError, save(tmp_path, tensors(), **config))


def test_token_rows_must_be_as_many_as_the_configuration_names(tmp_path: Path) -> None:
    rows = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 4)}
    assert "names 3" in failure(CheckpointError, save(tmp_path, tensors(**rows), trainable_token_indices=[1, 2, 3]))
    assert "names none" in failure(CheckpointError, save(tmp_path, tensors(**rows)))
    assert len(read(save(tmp_path, tensors(**rows), trainable_token_indices=[1, 2])).extras) == 1


def test_large_finite_numbers_are_finite(tmp_path: Path) -> None:
    """The sum of these overflows float32, but each of them is finite."""
    large = {f"{_STEM}.lora_A.weight": torch.full((2, 4), 3e38)}
    assert read(save(tmp_path, tensors() | large)).parameters == 14


def truncated(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"\n<html>", "is a web page"),
        (b"PK\x03\x04 and then nothing", "is truncated: its zip directory is missing"),
        (b"GGUF\x01\x00\x00\x00" + b"\x00" * 40, "is a GGUF file of version 1"),
        (b"just some text, long enough for a header", "is not a safetensors file"),
        (b"\x02\x00", "is not a safetensors file"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{}", "is truncated inside its header"),
        (b"\x04\x00\x00\x00\x00\x00\x00\x00{no}", "header is not JSON"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "holds no tensors"),
    ],
)
def test_files_that_are_no_checkpoint(content: bytes, expected: str, tmp_path: Path) -> None:
    save(tmp_path, tensors())
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "adapter_model.safetensors").write_bytes(content)
    message = failure(CheckpointError, tmp_path)
    assert expected in message
    assert "adapter_model.safetensors" in message


def test_truncated_weights_say_how_much_is_missing(tmp_path: Path) -> None:
    path = save(tmp_path, tensors()) / "adapter_model.safetensors"
    truncated(path, path.stat().st_size - 1)
    assert "is truncated: expected 56 data bytes, found 55" in failure(CheckpointError, tmp_path)
    path.write_bytes(path.read_bytes() + b"\0\0")
    assert "has bytes after its tensors" in failure(CheckpointError, tmp_path)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 31]}, "needs 32 bytes, found 31"),
        ({"dtype": "F32", "shape": [2, -4], "data_offsets": [0, 32]}, "malformed header entry"),
        ({"dtype": "F32", "shape": [2, 4], "data_offsets": [4, 36]}, "starts at byte 4, expected 0"),
        ({"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 32]}, "has dtype F4"),
        ({"dtype": "F32", "shape": "2,4"}, "malformed header entry"),
        ({"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 32]}, "needs"),
        ({"dtype": ["F32"], "shape": [2, 4], "data_offsets": [0, 32]}, "has dtype ['F32'], expected one of"),
        ({"dtype": "F32", "shape": [0, 1 << 62], "data_offsets": [0, 0]}, "has a shape that no tensor can have"),
        ({"dtype": "F32", "shape": [1] * 100 + [8], "data_offsets": [0, 32]}, "has a shape that no tensor can have"),
    ],
)
def test_hostile_headers_are_refused(entry: dict[str, Any], expected: str, tmp_path: Path) -> None:
    header = json.dumps({f"{_STEM}.lora_A.weight": entry}).encode()
    save(tmp_path, tensors())
    content = len(header).to_bytes(8, "little") + header + bytes(32)
    (tmp_path / "adapter_model.safetensors").write_bytes(content)
    assert expected in failure(CheckpointError, tmp_path)


@pytest.mark.parametrize("names", [["x", "x"], ["\ud800"]])
def test_tensor_names_must_be_text_and_differ(tmp_path: Path, names: list[str]) -> None:
    entry = json.dumps({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})
    header = ("{" + ",".join(f"{json.dumps(name)}:{entry}" for name in names) + "}").encode()
    save(tmp_path, tensors())
    (tmp_path / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "header is not JSON as it should be" in failure(CheckpointError, tmp_path)


def test_hints_do_not_blame_a_distributed_run_for_what_it_does_not_do(tmp_path: Path) -> None:
    assert "distributed" in failure(CheckpointError, save(tmp_path, factors(torch.ones(0, 4), torch.ones(3, 0))))
    assert "distributed" not in failure(CheckpointError, save(tmp_path, factors(torch.ones(2, 4), torch.ones(3, 5))))


def test_missing_and_ambiguous_paths(tmp_path: Path) -> None:
    assert "no such file or folder" in failure(CheckpointError, tmp_path / "nowhere")
    assert "no adapter in this folder" in failure(CheckpointError, tmp_path)
    save(tmp_path / "math", tensors())
    assert "did you mean" in failure(CheckpointError, tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        save_file(tensors(), tmp_path / name)
    assert "holds 2 weight files (a.safetensors, b.safetensors)" in failure(CheckpointError, tmp_path)


def test_broken_configuration_file(tmp_path: Path) -> None:
    config = save(tmp_path, tensors()) / "adapter_config.json"
    for content, expected in (
        (b"{", "is not valid JSON"),
        (b"[1]", "expected a JSON object"),
        (b"\xff", "not valid JSON"),
    ):
        config.write_bytes(content)
        assert expected in failure(CheckpointError, tmp_path)


def test_weights_alone_need_alpha(tmp_path: Path) -> None:
    save_file(factors(torch.ones(4, 4), torch.ones(3, 4)), tmp_path / "lora.safetensors")
    message = failure(CheckpointError, tmp_path / "lora.safetensors")
    assert "its scale is unknown" in message
    assert "`alpha=" in message
    adapter = read(tmp_path / "lora.safetensors", alpha=6)
    assert adapter.modules["model.layers.0.self_attn.q_proj"].scaling == 1.5
    assert source_bytes(tmp_path / "lora.safetensors") == (tmp_path / "lora.safetensors").stat().st_size
    (tmp_path / "other.json").write_text(json.dumps(_CONFIG | {"r": 4}))
    (module,) = read(tmp_path / "lora.safetensors", config=tmp_path / "other.json").modules.values()
    assert module.scaling == 1.0
    assert "not found" in failure(CheckpointError, tmp_path / "lora.safetensors", config=tmp_path / "none.json")


def test_alpha_beside_a_configuration_is_a_usage_error(tmp_path: Path) -> None:
    assert "sets the scale" in failure(UsageError, save(tmp_path, tensors()), alpha=3)
    (tmp_path / "adapter_config.json").unlink()
    for alpha in (float("nan"), float("inf")):
        assert "expected a finite number" in failure(UsageError, tmp_path, alpha=alpha)


def test_old_bin_files(tmp_path: Path) -> None:
    path = save(tmp_path, tensors()) / "adapter_model.safetensors"
    expected = load_file(path)
    path.unlink()
    for zipped in (True, False):
        torch.save(expected, tmp_path / "adapter_model.bin", _use_new_zipfile_serialization=zipped)
        adapter = read(tmp_path)
        assert adapter.meta.header is None
        module = adapter.modules["model.layers.0.self_attn.q_proj"]
        assert torch.equal(module.A, expected[f"{_STEM}.lora_A.weight"])


class Evil:
    """Unpickling this would call a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("executed",))


def test_bin_files_that_hold_code_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, tensors())
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save({"a": Evil()}, tmp_path / "adapter_model.bin")
    assert "loading it could run code" in failure(CheckpointError, tmp_path)
    assert capsys.readouterr().out == ""
    torch.save([1, 2], tmp_path / "adapter_model.bin")
    assert "expected a dictionary of tensors" in failure(CheckpointError, tmp_path)
    torch.save({"a": 1}, tmp_path / "adapter_model.bin")
    assert "expected a tensor under 'a'" in failure(CheckpointError, tmp_path)


@pytest.mark.parametrize("key", ["peft_type", "task_type"])
@pytest.mark.parametrize("value", [[], {}, 3])
def test_a_configuration_field_of_the_wrong_type_is_named(tmp_path: Path, key: str, value: object) -> None:
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q"], key: value}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"base_model.model.q.lora_A.weight": torch.ones(2, 3)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=f"{key} is .*, expected text"):
        read(tmp_path)


@pytest.mark.parametrize(
    "choice",
    [{"target_modules": ["v_proj"]}, {"exclude_modules": ["q_proj"]}, {"layers_to_transform": [1]}],
)
def test_factors_that_peft_would_leave_out_are_told(choice: dict[str, Any], tmp_path: Path) -> None:
    with pytest.warns(AdaptzipWarning, match=r"1 of 1 modules, such as \S+q_proj, are not among the targets"):
        read(save(tmp_path, tensors(), **choice))
