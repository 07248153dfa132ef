"""Every kind of bad input ends in one line with a hint, the documented exit code, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import adaptzip
from adaptzip.adz.container import writer
from tests.cli.cli_cases import (
    CONFIG,
    MODULES,
    OUT,
    RANK,
    WIDTH,
    listing,
    make_adapter,
    make_base,
    make_tensors,
    refused,
    run,
)

A = f"base_model.model.{MODULES[0]}.lora_A.weight"
B = f"base_model.model.{MODULES[0]}.lora_B.weight"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n"


def weights(folder: Path) -> Path:
    return folder / "adapter_model.safetensors"


def truncated(folder: Path) -> None:
    data = weights(make_adapter(folder)).read_bytes()
    weights(folder).write_bytes(data[: len(data) // 2])


def truncated_header(folder: Path) -> None:
    weights(make_adapter(folder)).write_bytes(weights(folder).read_bytes()[:40])


def replaced(content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        weights(make_adapter(folder)).write_bytes(content)

    return make


def with_number(value: float) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        tensors = make_tensors()
        tensors[B][3, 2] = value
        make_adapter(folder, tensors)

    return make


def without(key: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        tensors = make_tensors()
        del tensors[key]
        make_adapter(folder, tensors)

    return make


def mismatched(folder: Path) -> None:
    make_adapter(folder, make_tensors() | {B: torch.zeros(OUT, 3)})


def wrong_rank(folder: Path) -> None:
    make_adapter(folder, config=CONFIG | {"r": 5})


def unknown_key(folder: Path) -> None:
    make_adapter(folder, make_tensors() | {"something.else": torch.zeros(2)})


def no_config(folder: Path) -> None:
    make_adapter(folder, config=None)


def broken_config(folder: Path) -> None:
    (make_adapter(folder) / "adapter_config.json").write_text('{"r": 8,')


def empty_folder(folder: Path) -> None:
    folder.mkdir()


def nothing(folder: Path) -> None:
    assert not folder.exists()


def another_method(folder: Path) -> None:
    make_adapter(folder, config=CONFIG | {"peft_type": "IA3"})


def raw_pissa(folder: Path) -> None:
    make_adapter(folder, config=CONFIG | {"init_lora_weights": "pissa"})


def whole_numbers(folder: Path) -> None:
    make_adapter(folder, make_tensors() | {A: torch.zeros(RANK, WIDTH, dtype=torch.int32)})


CASES: list[tuple[Callable[[Path], None], int, str]] = [
    (truncated, 2, "truncated"),
    (truncated_header, 2, "truncated"),
    (replaced(b""), 2, "empty"),
    (replaced(b"these are not the weights you are looking for"), 2, "not a safetensors file"),
    (replaced(LFS), 2, "git-LFS pointer"),
    (replaced(b"<!DOCTYPE html><html></html>"), 2, "web page"),
    (with_number(float("nan")), 2, "NaN or infinity"),
    (with_number(float("inf")), 2, "NaN or infinity"),
    (without(A), 2, "no lora_A"),
    (without(B), 2, "no lora_B"),
    (mismatched, 2, MODULES[0]),
    (wrong_rank, 2, "rank 4"),
    (unknown_key, 2, "something.else"),
    (no_config, 2, "--alpha"),
    (broken_config, 2, "adapter_config.json"),
    (empty_folder, 2, "no adapter"),
    (nothing, 2, "no such file"),
    (another_method, 3, "IA3"),
    (raw_pissa, 3, "PiSSA"),
    (whole_numbers, 2, "int32"),
]
IDS = [
    "truncated", "truncated-header", "empty", "not-safetensors", "lfs-pointer", "web-page", "nan", "inf",
    "b-without-a", "a-without-b", "mismatched-shapes", "wrong-rank", "unknown-key", "no-config",
    "broken-config", "empty-folder", "nothing", "another-method", "raw-pissa", "whole-numbers",
]  # fmt: skip


@pytest.mark.parametrize(("make", "code", "said"), CASES, ids=IDS)
@pytest.mark.parametrize("verb", ["compress", "inspect", "export", "merge", "diff"])
def test_bad_adapters(verb: str, make: Callable[[Path], None], code: int, said: str, tmp_path: Path) -> None:
    source = tmp_path / "bad"
    make(source)
    good, base = make_adapter(tmp_path / "good"), make_base(tmp_path / "base")
    every: dict[str, list[object]] = {
        "compress": ["-o", tmp_path / "out.adz"],
        "inspect": [],
        "export": ["-o", tmp_path / "out"],
        "merge": ["--base", base, "-o", tmp_path / "out"],
        "diff": [good],
    }
    before = listing(tmp_path)
    result = run(verb, source, *every[verb])
    refused(result, code, said, str(source))
    assert listing(tmp_path) == before


def test_every_bad_adapter_gets_a_hint(tmp_path: Path) -> None:
    for (make, _, said), name in zip(CASES, IDS, strict=True):
        make(tmp_path / name)
        assert "\nhint: " in run("compress", tmp_path / name).err, said


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) - 100],
    "truncated-header": lambda data: data[:100],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "lfs-pointer": lambda data: LFS,
    "flipped-bit": lambda data: data[:-200] + bytes([data[-200] ^ 1]) + data[-199:],
    "no-json": lambda data: data[:8] + b"x" + data[9:],
    "huge-header": lambda data: b"\xff" * 8 + data[8:],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_archives(damage: str, packed: bytes, tmp_path: Path) -> None:
    broken = tmp_path / "broken.adz"
    broken.write_bytes(DAMAGES[damage](packed))
    refused(run("verify", broken), 2, str(broken))
    out = tmp_path / "out"
    refused(run("export", broken, "-o", out), 2, str(broken))
    assert not out.exists()
    if damage != "flipped-bit":  # `inspect` reads the header, not the payload
        refused(run("inspect", broken), 2, str(broken))


def test_a_block_that_does_not_decode_although_its_hash_is_right(archive: Path, tmp_path: Path) -> None:
    opened = adaptzip.open(archive)
    broken = tmp_path / "broken.adz"
    writer.write(replace(opened, grouped=b"\xff" * 9), broken)
    refused(run("verify", broken), 2, f"{broken}: ", "where the modules do")


def test_an_adapter_is_no_archive(adapter: Path) -> None:
    refused(run("verify", adapter / "adapter_model.safetensors"), 2, "adapter_model.safetensors")
    refused(run("verify", adapter), 2, f"{adapter}: is a folder, expected a .adz file", "adaptzip compress")


def test_the_wrong_base(adapter: Path, tmp_path: Path) -> None:
    narrow = make_base(tmp_path / "narrow", out=32)
    before = listing(tmp_path)
    refused(run("merge", adapter, "--base", narrow, "-o", tmp_path / "out"), 2, "narrow")
    refused(run("merge", adapter, "--base", tmp_path / "none", "-o", tmp_path / "out"), 2, "none")
    refused(run("merge", adapter, "--base", adapter, "-o", tmp_path / "out"), 2, str(adapter))
    assert listing(tmp_path) == before


def test_budgets_and_settings(adapter: Path) -> None:
    before = listing(adapter.parent)
    refused(run("compress", adapter, "--budget", "small"), 2, "'small'", "64KiB")
    refused(run("compress", adapter, "--budget", "50q"), 2, "50q")
    refused(run("compress", adapter, "--to", "nothing"), 2, "nothing", "svd")
    refused(run("compress", adapter, "-s", "rank=3"), 2, "rank")
    refused(run("compress", adapter, "-s", "rank"), 2, "key=value")
    refused(run("compress", adapter, "--max-error", "-0.5"), 2, "0.5")
    refused(run("compress", adapter, "--max-error", "nan"), 2, "nan")
    refused(run("compress", adapter, "--device", "abacus"), 2, "abacus")
    refused(run("compress", adapter, "--budget", "1k", "--lossless"), 2, "lossless")
    refused(run("compress", adapter, "--alpha", "8"), 2, "--alpha")
    refused(run("export", adapter, "-o", adapter.parent / "out", "--as", "nothing"), 2, "peft")
    assert listing(adapter.parent) == before


def test_a_budget_that_cannot_be_reached(adapter: Path) -> None:
    before = listing(adapter.parent)
    refused(run("compress", adapter, "--budget", "100B"), 1, "100")
    assert listing(adapter.parent) == before


def test_alpha_takes_the_place_of_a_configuration(tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "bare", config=None)
    result = run("compress", weights(source), "--alpha", "16", "-o", tmp_path / "out.adz", "--lossless")
    assert result.code == 0, result.err
    elsewhere = tmp_path / "config.json"
    elsewhere.write_text(json.dumps(CONFIG))
    assert run("compress", weights(source), "--config", elsewhere, "-o", tmp_path / "two.adz", "--lossless").code == 0
    assert run("diff", tmp_path / "out.adz", tmp_path / "two.adz", "--max-error", "0").code == 0
    assert run("export", weights(source), "--alpha", "16", "-o", tmp_path / "three").code == 0
    assert run("inspect", weights(source), "--alpha", "16", "--no-costs").code == 0
    assert run("verify", tmp_path / "out.adz", "--against", weights(source), "--alpha", "16").code == 0
    base = make_base(tmp_path / "base")
    assert run("merge", weights(source), "--alpha", "16", "--base", base, "-o", tmp_path / "four").code == 0
