"""Every scheme's weights are those that its stored numbers stand for, bit for bit, whole and in part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adaptzip.models.folder import BaseModel
from tests.cases.quantised_weights import CASES, table, write_module


@pytest.mark.parametrize("name", CASES)
def test_weights(name: str, tmp_path: Path) -> None:
    shape = (64, 32) if "gptq" in name else (40, 32)
    weight = write_module(tmp_path / "base", CASES[name], shape)
    base = BaseModel.open(tmp_path / "base", quantised="dequantised")
    assert list(base.tensors) == ["m.weight"]
    assert (base.stored("m.weight").dtype, base.stored("m.weight").shape) == (torch.bfloat16, shape)
    assert base.config == {"dtype": "bfloat16"}
    read = base.read("m.weight")
    assert read.dtype == torch.float32
    assert torch.equal(read, weight)
    for rows in ((0, 1), (5, 6), (7, 23), (17, 40), (39, 40), (3, 3)):
        assert torch.equal(base.read("m.weight", rows), weight[slice(*rows)])


def test_tables_are_those_of_the_definitions() -> None:
    from adaptzip.models.dequantising.bitsandbytes4 import CODES

    for kind, code in CODES.items():
        assert torch.equal(torch.tensor(code), table(kind))
