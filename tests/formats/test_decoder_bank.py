"""The second reader of `.bank` files, written from the format's text, against adaptzip's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from adaptzip.bases.bank_file import read_bank
from formats import decoder, decoder_bank
from formats.make_golden import BANK
from tests.bases.test_bank_file import rewritten


def test_both_read_the_golden_bank_alike() -> None:
    ours = read_bank(BANK)
    theirs, found = decoder_bank.read_bank(BANK.read_bytes())
    assert ours.bank is not None
    assert found == ours.reference.hash == "uNGiXQ9Ui7vAylbHmUKgjw"
    assert np.array_equal(theirs[decoder.BANK][0], ours.bank.vectors.numpy())


def test_both_refuse_a_damaged_bank(tmp_path: Path) -> None:
    path = tmp_path / "x.bank"
    path.write_bytes(BANK.read_bytes())
    rewritten(path, lambda t, m: m.update(rank=9))
    with pytest.raises(decoder.Broken, match="damaged"):
        decoder_bank.read_bank(path.read_bytes())
