"""llama.cpp computes with a merged GGUF file what it computes with the base and the adapter beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adaptzip.checkpoints._gguf.architectures import BY_MODEL_TYPE
from adaptzip.restoring.exporting import export
from adaptzip.restoring.merging import merge
from tests.cases.gguf_bases import write_base
from tests.cases.llamacpp import likeliest
from tests.cases.oracle_models import MIXED, Case, make

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(tmp_path_factory.mktemp("mixed"), r=4, lora_alpha=8, **MIXED)


def apart(one: dict[int, float], other: dict[int, float]) -> float:
    """The largest difference of log-probabilities over the likeliest tokens that both name."""
    return max(abs(one[token] - other[token]) for token in one.keys() & other.keys())


@pytest.mark.parametrize("kind", BY_MODEL_TYPE)
def test_every_architecture(kind: str, tmp_path: Path) -> None:
    known = BY_MODEL_TYPE[kind]
    targets = tuple(module.rpartition(".")[2] for module in known.modules)
    case = make(tmp_path, kind, targets=targets, r=4, lora_alpha=8, fan_in_fan_out=known.transposed)
    base = write_base(case.base, tmp_path / "base.gguf", known.name)
    export(case.adapter, tmp_path / "lora.gguf", as_="gguf", base=case.base)
    wanted = likeliest(base, tmp_path / "lora.gguf")
    merge(case.adapter, base, tmp_path / "merged.gguf")
    found = likeliest(tmp_path / "merged.gguf")
    assert found.keys() == wanted.keys()
    assert apart(found, wanted) < 1e-3
    assert apart(found, likeliest(base)) > 0.3


@pytest.mark.parametrize(
    ("kind", "options", "allowed"),
    [
        ("F16", {}, 0.01),
        ("BF16", {}, 0.02),
        ("Q8_0", {"requantise": True}, 0.05),
        ("Q8_0", {"dequantise": True}, 0.05),
        ("Q4_0", {"dequantise": True}, 0.05),
    ],
)
def test_every_type(kind: str, options: dict[str, Any], allowed: float, case: Case, tmp_path: Path) -> None:
    base = write_base(case.base, tmp_path / "base.gguf", kind=kind)
    export(case.adapter, tmp_path / "lora.gguf", as_="gguf", base=case.base)
    merge(case.adapter, base, tmp_path / "merged.gguf", **options)
    found = likeliest(tmp_path / "merged.gguf")
    wanted = likeliest(base, tmp_path / "lora.gguf")
    assert len(found.keys() & wanted.keys()) >= 17
    assert apart(found, wanted) < allowed
    assert apart(found, likeliest(base)) > 0.5
