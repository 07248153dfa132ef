"""llama.cpp computes with a GGUF adapter what PEFT computes with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adaptzip.checkpoints._gguf.architectures import BY_MODEL_TYPE
from adaptzip.errors import RefusedError
from adaptzip.restoring.exporting import export
from adaptzip.restoring.reading import read
from tests.cases.gguf_bases import write_base
from tests.cases.llamacpp import likeliest
from tests.cases.oracle_models import LINEAR, MIXED, Case, make

pytestmark = pytest.mark.oracle
BEYOND_NOISE = 5e-3
"""How much further from transformers an adapter may bring llama.cpp's log-probabilities than it is without one."""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make(tmp_path_factory.mktemp("mixed"), r=4, lora_alpha=8, **MIXED)


@pytest.fixture(scope="module")
def base(case: Case) -> Path:
    return write_base(case.base, case.base.parent / "base.gguf")


def apart(found: dict[int, float], logits: Tensor) -> float:
    """The largest difference of log-probabilities over the tokens that llama.cpp names."""
    wanted = torch.log_softmax(logits[-1].double(), dim=-1)
    assert len(found) == 20
    return max(abs(value - float(wanted[token])) for token, value in found.items())


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_mixed_ranks_and_scales(dtype: Any, case: Case, base: Path, tmp_path: Path) -> None:
    noise = apart(likeliest(base), case.plain)
    export(case.adapter, tmp_path / "out", as_="gguf", base=case.base, dtype=dtype)
    found = likeliest(base, tmp_path / "out" / "adapter.gguf")
    assert apart(found, case.plain) > 0.5
    assert apart(found, case.adapted) <= noise + BEYOND_NOISE * (4 if dtype == "bfloat16" else 1)


@pytest.mark.parametrize("kind", BY_MODEL_TYPE)
def test_every_architecture(kind: str, tmp_path: Path) -> None:
    known = BY_MODEL_TYPE[kind]
    targets = tuple(module.rpartition(".")[2] for module in known.modules)
    other = {targets[-1]: 6}
    case = make(tmp_path, kind, targets=targets, r=4, lora_alpha=8, rank_pattern=other, fan_in_fan_out=known.transposed)
    base = write_base(case.base, tmp_path / "base.gguf", known.name)
    export(case.adapter, tmp_path / "out", as_="gguf", base=case.base)
    found = likeliest(base, tmp_path / "out" / "adapter.gguf")
    assert apart(found, case.plain) > 0.5
    assert apart(found, case.adapted) <= apart(likeliest(base), case.plain) + BEYOND_NOISE


def test_eight_bits(tmp_path: Path) -> None:
    case = make(tmp_path, r=32, lora_alpha=16, targets=LINEAR)
    base = write_base(case.base, tmp_path / "base.gguf")
    export(case.adapter, tmp_path / "out", as_="gguf", base=case.base, dtype="q8_0")
    found = likeliest(base, tmp_path / "out" / "adapter.gguf")
    assert apart(found, case.plain) > 0.5
    assert apart(found, case.adapted) <= apart(likeliest(base), case.plain) + 0.03


def test_the_embedding_and_the_head(tmp_path: Path) -> None:
    case = make(tmp_path, r=4, lora_alpha=8, targets=("q_proj", "embed_tokens", "lm_head"))
    base = write_base(case.base, tmp_path / "base.gguf")
    export(case.adapter, tmp_path / "out", as_="gguf", base=case.base)
    found = likeliest(base, tmp_path / "out" / "adapter.gguf")
    assert apart(found, case.plain) > 0.5
    assert apart(found, case.adapted) <= apart(likeliest(base), case.plain) + BEYOND_NOISE


def test_what_is_read_back_is_the_source(case: Case, tmp_path: Path) -> None:
    export(case.adapter, tmp_path / "out", as_="gguf", base=case.base)
    for name, module in read(tmp_path / "out").modules.items():
        torch.testing.assert_close(module.delta(), read(case.adapter).modules[name].delta(), atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")
def test_what_llama_cpp_has_one_tensor_for_is_refused(tmp_path: Path) -> None:
    case = make(tmp_path, tied=True, r=4, lora_alpha=8, targets=("q_proj", "embed_tokens"))
    with pytest.raises(RefusedError, match="that the base ties together"):
        export(case.adapter, tmp_path / "out", as_="gguf", base=case.base)
