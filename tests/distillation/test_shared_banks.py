"""A bank that adapters share is not trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import adaptzip
from adaptzip.distillation.beginning import fitted_or_read
from adaptzip.errors import RefusedError
from adaptzip.fitting.requests import Request
from tests.cases.shared_pieces import RANK, WIDTH, alike


def test_a_file_with_a_shared_bank_is_not_trained_further(tmp_path: Path) -> None:
    bank, path = tmp_path / "x.bank", tmp_path / "x.adz"
    adaptzip.build_bank(alike(3), bank, device="cpu", rank=RANK, length=WIDTH, vectors=9, top_k=1)
    adaptzip.compress(alike(1)[0], path, to="vblora", basis=bank, device="cpu")
    with pytest.raises(RefusedError, match="training would change its vectors"):
        fitted_or_read(path, Request(basis=bank), torch.device("cpu"))
    adaptzip.compress(alike(1)[0], path, to="vblora", basis=bank, embed_basis=True, device="cpu", force=True)
    assert fitted_or_read(path, Request(), torch.device("cpu")).tensors.shared
