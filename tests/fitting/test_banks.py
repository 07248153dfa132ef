"""Adapters coded with one bank: what the bank saves, which limits are met, and that no other bank will do."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.basis import Basis
from adaptzip.errors import (
    CheckFailedError,
    FormatError,
    OutputError,
    RefusedError,
    UsageError,
)
from adaptzip.fitting.banks import reached
from adaptzip.testing.adapters import relative_error, same_factors
from tests.cases.shared_pieces import RANK, WIDTH, alike, strangers

SHAPE: dict[str, Any] = {"rank": RANK, "length": WIDTH, "vectors": 40, "top_k": 2}
TEAM = alike(20)


@pytest.fixture(scope="module")
def bank() -> Basis:
    return adaptzip.build_bank(TEAM, device="cpu", **SHAPE)


@pytest.fixture(scope="module")
def file(bank: Basis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("banks") / "team.bank"
    again = adaptzip.build_bank(lambda: iter(TEAM), path, device="cpu", **SHAPE)
    assert again.reference == bank.reference
    return path


def coded(source: Adapter, basis: Path | Basis, **options: Any) -> Any:
    return adaptzip.compress(source, to="vblora", basis=basis, device="cpu", **options)


def size(path: Path) -> int:
    return path.stat().st_size


def test_a_bank_of_many_beats_a_bank_of_each_at_equal_bytes(bank: Basis, file: Path) -> None:
    made = [coded(source, bank) for source in TEAM]
    share = (size(file) + sum(map(writer.size, made))) // len(made)
    own = [adaptzip.compress(s, to="vblora", device="cpu", budget=f"{share}B", effort="fast") for s in TEAM[:4]]
    shared_errors = [one.provenance.relative_error for one in made]
    assert max(shared_errors) < 0.75 * min(one.provenance.relative_error for one in own)


def test_a_file_states_its_error_and_holds_no_vectors(bank: Basis, file: Path) -> None:
    made = coded(TEAM[0], file)
    assert made.basis == bank.reference
    assert made.shared == b""
    assert made.config == {"rank": RANK, "length": WIDTH, "vectors": 40, "top_k": 2}
    again = adaptzip.reconstruct(made, basis=file)
    assert relative_error(TEAM[0], again) == pytest.approx(made.provenance.relative_error, rel=1e-3)
    assert same_factors(again, adaptzip.reconstruct(made, basis=bank))
    pieces = sum(2 * m.rank for m in TEAM[0].modules.values())
    assert made.provenance.parameters <= 3 * pieces


def test_written_files_come_back(file: Path, tmp_path: Path) -> None:
    made = coded(TEAM[1], file, output=tmp_path / "x.adz")
    assert same_factors(adaptzip.reconstruct(tmp_path / "x.adz", basis=file), adaptzip.reconstruct(made, basis=file))
    assert adaptzip.verify(tmp_path / "x.adz", against=TEAM[1], basis=file).passed
    again = adaptzip.compress(tmp_path / "x.adz", lossless=False, basis=file, device="cpu", max_error=0.01)
    assert relative_error(adaptzip.reconstruct(made, basis=file), adaptzip.reconstruct(again)) < 0.011


def test_an_error_is_met_with_the_smallest_file_or_refused_with_what_is_reached(bank: Basis) -> None:
    least = reached(TEAM[2], bank)
    assert least.worst is not None
    assert least.error < 0.3
    near, far = (coded(TEAM[2], bank, max_error=e) for e in (1.02 * least.error, 0.7))
    assert near.provenance.relative_error <= 1.02 * least.error
    assert far.provenance.relative_error <= 0.7
    assert writer.size(far) < writer.size(near) <= least.bytes
    with pytest.raises(CheckFailedError, match="0.001 cannot be reached: these settings leave at least 0.[0-9]"):
        coded(TEAM[2], bank, max_error=0.001)


def test_budgets_are_kept(bank: Basis) -> None:
    whole = coded(TEAM[3], bank)
    small = coded(TEAM[3], bank, budget=f"{writer.size(whole) - 6}B")
    assert writer.size(small) <= writer.size(whole) - 6
    assert small.provenance.relative_error > whole.provenance.relative_error
    assert relative_error(TEAM[3], adaptzip.reconstruct(small, basis=bank)) == pytest.approx(
        small.provenance.relative_error, rel=1e-3
    )
    few = coded(TEAM[3], bank, budget="20")
    assert 0 < few.provenance.parameters <= 20
    with pytest.raises(
        CheckFailedError, match="leave no room for any module: without any module the file takes [0-9]+"
    ):
        coded(TEAM[3], bank, budget="141B")


def test_ranks_are_honoured(bank: Basis) -> None:
    made = coded(TEAM[3], bank, ranks={"m.0": 1})
    ranks = {name: m.rank for name, m in adaptzip.reconstruct(made, basis=bank).modules.items()}
    assert ranks == {"m.0": 1, "m.1": 0}


def test_an_embedded_bank_makes_an_ordinary_file(bank: Basis, tmp_path: Path) -> None:
    made = coded(TEAM[4], bank, embed_basis=True, max_error=0.3, output=tmp_path / "x.adz")
    assert made.basis is None
    assert made.shared
    assert relative_error(TEAM[4], adaptzip.reconstruct(tmp_path / "x.adz")) == pytest.approx(
        made.provenance.relative_error, rel=1e-3
    )
    assert made.provenance.relative_error <= 0.3


def test_only_the_very_bank_will_do(bank: Basis, file: Path, tmp_path: Path) -> None:
    made = coded(TEAM[5], file)
    with pytest.raises(RefusedError, match=f"updates of 20 adapters.* of hash {bank.reference.hash[:8]}.*not given"):
        adaptzip.reconstruct(made)
    other = adaptzip.build_bank(strangers(3), tmp_path / "other.bank", device="cpu", **SHAPE)
    with pytest.raises(RefusedError, match=rf"other\.bank: has hash {other.reference.hash[:8]}"):
        adaptzip.reconstruct(made, basis=tmp_path / "other.bank")
    adaptzip.compress(TEAM[5], tmp_path / "x.adz")
    with pytest.raises(RefusedError, match=r"x\.adz: is no bank"):
        adaptzip.reconstruct(made, basis=tmp_path / "x.adz")


def test_a_damaged_bank_is_refused(file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    (tmp_path / "x.bank").write_bytes(data)
    made, path = coded(TEAM[0], file), tmp_path / "x.bank"
    with pytest.raises(FormatError, match=r"x\.bank: is damaged"):
        coded(TEAM[0], path)
    with pytest.raises(FormatError, match=r"x\.bank: is damaged"):
        adaptzip.reconstruct(made, basis=path)


def test_what_has_no_use_for_a_bank_says_so(file: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="is a bank of vectors, which method 'svd' has no use for"):
        adaptzip.compress(TEAM[0], basis=file)
    with pytest.raises(RefusedError, match="is a bank of vectors, which method 'lora-sb' has no use for"):
        adaptzip.compress(TEAM[0], to="lora-sb", basis=file)
    adaptzip.compress(TEAM[0], tmp_path / "x.adz")
    with pytest.raises(RefusedError, match="is no bank of vectors, which method 'vblora' takes"):
        coded(TEAM[0], tmp_path / "x.adz")
    with pytest.raises(UsageError, match="length is 8, and the bank's is 32"):
        coded(TEAM[0], file, length=8)
    with pytest.raises(UsageError, match="rank is 5, and the bank's is 2"):
        coded(TEAM[0], file, rank=5)


def test_auto_considers_the_bank(file: Path) -> None:
    made = adaptzip.compress(TEAM[0], to="auto", basis=file, device="cpu", budget="230B", effort="fast")
    assert made.method == "vblora"
    assert made.basis is not None


def test_adapters_of_other_modules_and_shapes_are_welcome(bank: Basis) -> None:
    other = Adapter({"x.long": LoraFactors(TEAM[0].modules["m.0"].A.repeat(1, 2), TEAM[0].modules["m.1"].B)})
    made = coded(other, bank)
    assert relative_error(other, adaptzip.reconstruct(made, basis=bank)) < 1
    mixed = adaptzip.build_bank([*TEAM[:3], other], device="cpu", **SHAPE)
    assert reached(other, mixed).error < reached(other, bank).error


def test_updates_of_zero_need_no_bank(bank: Basis) -> None:
    nothing = Adapter({name: LoraFactors(m.A, m.B * 0) for name, m in TEAM[0].modules.items()})
    made = coded(nothing, bank)
    assert made.basis is None
    assert all(not m.rank for m in adaptzip.reconstruct(made).modules.values())
    with pytest.raises(RefusedError, match="every update is zero"):
        adaptzip.build_bank([nothing], device="cpu", **SHAPE)


def test_settings_that_are_left_open_are_chosen(tmp_path: Path) -> None:
    team = adaptzip.build_bank(alike(24), device="cpu")
    assert team.bank is not None
    assert team.bank.shape.length >= WIDTH // 2
    assert team.bank.shape.rank == RANK
    others = adaptzip.build_bank(strangers(24), device="cpu")
    assert others.bank is not None
    assert others.bank.shape.length < WIDTH // 2
    with pytest.raises(CheckFailedError, match="GiB of the option memory"):
        adaptzip.build_bank(TEAM, device="cpu", memory=1e-9)


def test_what_is_no_set_of_adapters(file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapter was given"):
        adaptzip.build_bank([], device="cpu", **SHAPE)
    with pytest.raises(UsageError, match="gone over but once"):
        adaptzip.build_bank(itertools.chain(TEAM), device="cpu", **SHAPE)
    with pytest.raises(UsageError, match="one adapter was given"):
        adaptzip.build_bank(TEAM[0], device="cpu", **SHAPE)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a bank of 2 vectors was asked for mixtures of 2"):
        adaptzip.build_bank(TEAM, device="cpu", **SHAPE | {"vectors": 2})
    with pytest.raises(OutputError, match="exists already"):
        adaptzip.build_bank(TEAM, file, device="cpu", **SHAPE)
