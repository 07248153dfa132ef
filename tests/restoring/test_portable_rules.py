"""Portable folders keep the rules that inference engines state, by which others than portable ones load wrongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptzip.restoring.exporting import export
from adaptzip.restoring.reading import read
from tests.cases.engines import opened, sglang, updates, vllm
from tests.cases.exported import CASES, recompressed
from tests.cases.tiny_peft import train

RULES: Mapping[str, Callable[..., list[str]]] = {"vllm": vllm, "sglang": sglang}


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("name", ["linear", "rslora and patterns", "one layer of a regex", "dora", "head and biases"])
def test_a_portable_folder_is_read_alike_by_all(name: str, changed: bool, dtype: Any, tmp_path: Path) -> None:
    model, config = CASES[name]
    train(model(), tmp_path / "source", **config)
    source = recompressed(read(tmp_path / "source")) if changed else read(tmp_path / "source")
    export(source, tmp_path / "out", portable=True, drop_extras=True, dtype=dtype)
    files = opened(tmp_path / "out")
    assert {engine: faults(*files) for engine, faults in RULES.items()} == {"vllm": [], "sglang": []}
    found = updates(*files)
    assert found.keys() == source.modules.keys()
    for module, factors in source.modules.items():
        allowed = 1e-6 if dtype is None else 2e-2 * float(factors.delta().abs().max())
        torch.testing.assert_close(found[module], factors.delta().float(), atol=allowed, rtol=0)


@pytest.mark.parametrize(
    ("name", "engine", "fault"),
    [
        ("rslora and patterns", "vllm", "rank_pattern"),
        ("rslora and patterns", "sglang", "use_rslora"),
        ("one layer of a regex", "vllm", "target_modules"),
        ("dora", "vllm", "use_dora"),
        ("head and biases", "vllm", "bias"),
        ("head and biases", "sglang", "keys"),
    ],
)
def test_what_is_not_portable_breaks_a_rule(name: str, engine: str, fault: str, tmp_path: Path) -> None:
    model, config = CASES[name]
    train(model(), tmp_path / "source", **config)
    export(tmp_path / "source", tmp_path / "out")
    assert fault in RULES[engine](*opened(tmp_path / "out"))
