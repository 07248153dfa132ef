"""A base model that can't be used is told by the same sentence and exit code in every command that takes one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cases.evaluation_cases import classifier, write_rows
from tests.cli.cli_cases import refused, run

COMMANDS = (
    "merge {teacher} --base {base} -o {out}",
    "merge {teacher} --base {base} -o {out} --dry-run",
    "compress {teacher} --to lora-xs --base {base} -o {out}.adz",
    "compress {teacher} --base {base} --calibration {data} -o {out}.adz",
    "basis build --gradient --base {base} --calibration {data} --modules-of {teacher} -k 2 -o {out}.basis",
    "diff {teacher} {teacher} --base {base} --calibration {data}",
    "eval --teacher {teacher} --base {base} --data {data}",
    "distill --teacher {teacher} --base {base} --data {data} --budget 6kB -o {out}.adz",
)


def quantised(base: Path) -> None:
    file = base / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("query.weight"))
    module = name.removesuffix(".weight")
    save_file(
        {**tensors, name: tensors[name].to(torch.int8), f"{module}.SCB": torch.ones(len(tensors[name]))},
        file,
        metadata={"format": "pt"},
    )


def without_a_shard(base: Path) -> None:
    (base / "model.safetensors").rename(base / "a.safetensors")
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}')


def dangling(base: Path) -> None:
    (base / "model.safetensors").unlink()
    (base / "model.safetensors").symlink_to("../../blobs/abc")


def led_out(base: Path) -> None:
    (base / "model.safetensors").rename(base.with_name("elsewhere"))
    (base / "model.safetensors").symlink_to(os.path.relpath(base.with_name("elsewhere"), base))


def pointer(base: Path) -> None:
    (base / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


def deeper(base: Path) -> None:
    (base / "inner").mkdir()
    for path in [path for path in base.iterdir() if path.is_file()]:
        path.rename(base / "inner" / path.name)


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (quantised, 3, "base-model: is quantised (bitsandbytes, 8 bit)"),
        (without_a_shard, 2, "base-model: lacks the weight files b.safetensors"),
        (dangling, 2, "model.safetensors: is a link to ../../blobs/abc, which is not there"),
        (led_out, 3, "model.safetensors: is a link that leads out of the base model's folder"),
        (pointer, 2, "model.safetensors: is a git-LFS pointer"),
        (deeper, 2, "did you mean"),
    ],
)
def test_one_cause_has_one_sentence(spoil: Callable[[Path], None], code: int, said: str, tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path)
    data = write_rows(tmp_path / "rows.jsonl")
    spoil(base)
    before = sorted(tmp_path.rglob("*"))
    sentences = set()
    for words in COMMANDS:
        filled = words.format(teacher=teacher, base=base, data=data, out=tmp_path / "out")
        result = run(*filled.split())
        refused(result, code, said)
        # `eval` says for which of its rows it needed the base.
        sentences.add(result.err.replace("error: the teacher: ", "error: "))
    assert len(sentences) == 1, sentences
    assert sorted(tmp_path.rglob("*")) == before
