"""The benchmarks of fleets: which members there are, what gain and shares mean, made-up fleets, rows and growth."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.testing.adapters import adapter as made
from benchmarks.fleet import compare, gains, growth, members, methods, peers, shares, synthetic, tables, train
from benchmarks.fleet.entries import load
from benchmarks.fleet.kinds import Kind, Task
from benchmarks.fleet.made import Among, plain
from benchmarks.fleet.profiles import SHARED, Profile, measured
from benchmarks.fleet.rows import Row, Told, error_in, read
from benchmarks.peers.drivers.exchange import Arrays
from benchmarks.peers.environments import Answer, Environments, PeerAbsentError
from benchmarks.peers.packages import VLORA, Package

PROFILE = Profile(0.1, 0.3, ((0.4, 0.2, 0.1, 0.05), (0.3, 0.2, 0.15, 0.1)))


def test_a_larger_fleet_begins_with_the_smaller_one() -> None:
    many = members.members(64)
    assert members.members(10) == many[:10]
    assert len({member.name for member in many}) == 64
    assert {member.rank for member in many} == {4, 8}


def test_twins_learn_one_task_from_two_seeds() -> None:
    many = [member for member in members.members(64) if member.kind == "stories"]
    by_task = {task: [m for m in many if m.task == task] for task in {member.task for member in many}}
    twins = [pair for pair in by_task.values() if len(pair) > 1]
    assert len(twins) == 4
    for first, second in twins:
        assert first.rank == second.rank
        assert first.seed != second.seed
        assert first.start == members.COMMON != second.start
        # Both are members, so that no left-out adapter has its task among them.
        assert not any(members.is_left_out(m.seed) for m in (first, second))


def test_gain_is_the_part_of_the_way() -> None:
    assert gains.share(0.25, 0.25, 0.75) == 0
    assert gains.share(0.75, 0.25, 0.75) == 1
    assert gains.share(0.5, 0.25, 0.75) == 0.5
    assert gains.share(-3.0, -4.0, -2.0) == 0.5
    assert gains.share(0.0, 0.25, 0.75) < 0


class Line(nn.Module):
    """A model that multiplies by a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(6, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.proj(x)
        return found


def loss_of(model: nn.Module, pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([(model(x) - y).square().mean() for x, y in pairs]).mean()


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> Kind:
    """A kind whose adapters learn a matrix."""
    torch.manual_seed(0)
    model = Line().requires_grad_(False)

    def task(number: int, _: Path) -> Task:
        generator = torch.Generator().manual_seed(number)
        matrix = torch.randn(5, 6, generator=generator)
        pairs = [(x, matrix @ x) for x in torch.randn(20, 6, generator=generator)]
        return Task(f"matrix {number}", pairs[5:], pairs[:5])

    def score(model: nn.Module, pairs: Sequence[Any]) -> float:
        return -float(loss_of(model, pairs).detach())

    found = Kind("line", ("proj",), None, 30, 8, 0.05, "less loss", lambda _: model, task, loss_of, score)
    monkeypatch.setattr(members, "KINDS", {"line": found})
    monkeypatch.setattr(gains, "KINDS", {"line": found})
    monkeypatch.setattr(train, "KINDS", {"line": found})
    gains.task_of.cache_clear()
    return found


def test_a_fleet_is_trained_and_not_twice(kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--out", str(tmp_path), "--material", str(tmp_path)]
    train.main([*words, "--count", "2"])
    first = (tmp_path / "line/0000/adapter_model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    train.main([*words, "--count", "3"])
    assert capsys.readouterr().out.startswith("line/0002 ")
    assert (tmp_path / "line/0000/adapter_model.safetensors").stat().st_mtime_ns == first
    found = gains.manifest(tmp_path)
    assert [row.member for row in found] == members.members(3)
    assert all(row.after > row.before for row in found)
    entries = load(tmp_path)
    assert [entry.left_out for entry in entries] == [False, False, True]
    assert [entry.same_start for entry in entries] == [True, False, True]


def test_gain_is_what_peft_makes_of_the_folder(kind: Kind, tmp_path: Path) -> None:
    train.main(["--out", str(tmp_path), "--material", str(tmp_path), "--count", "1"])
    (one,) = gains.manifest(tmp_path)
    folder = tmp_path / one.member.name
    model = kind.model(tmp_path)
    before = model.get_parameter("proj.weight").clone()
    assert gains.gain(folder, one, tmp_path) == 1
    half = adaptzip.read(folder)
    half = Adapter({n: LoraFactors(m.A, m.B, m.scaling / 2) for n, m in half.modules.items()})
    assert 0 < gains.gain(half, one, tmp_path) < 1
    assert torch.equal(model.get_parameter("proj.weight"), before)
    loaded = PeftModel.from_pretrained(model, folder)
    assert kind.score(loaded, kind.task(one.member.task, tmp_path).held_out) == pytest.approx(one.after, rel=1e-5)


def factors(delta: Tensor) -> Adapter:
    U, S, Vt = torch.linalg.svd(delta, full_matrices=False)
    return Adapter({"m": LoraFactors(Vt, U * S)})


def test_shares_of_equal_updates_are_the_mean_s() -> None:
    one = shares.normalised(factors(torch.randn(12, 10, generator=torch.Generator().manual_seed(0))))
    found = shares.shares(shares.of_all([one, one]), [one], [4])
    assert found.mean == pytest.approx(1, abs=1e-5)
    assert found.private(4) == pytest.approx(0, abs=1e-5)


def test_shares_beside_the_mean_are_those_of_directions() -> None:
    # Their mean is zero; the first two directions of either side hold 2 * 1 of 2 * (1 + 1/4) of the squares.
    matrix = torch.diag(torch.tensor([1.0, 0.5, 0.0]))
    both = [shares.normalised(factors(matrix)), shares.normalised(factors(-matrix))]
    found = shares.shares(shares.of_all(both), both, [1, 2])
    assert found.mean == pytest.approx(0, abs=1e-6)
    assert found.shared[1] == pytest.approx(0.8, rel=1e-5)
    assert found.shared[2] == pytest.approx(1, rel=1e-5)


def test_a_made_up_fleet_is_the_same_for_a_seed() -> None:
    common = synthetic.sides(3)
    first = synthetic.adapter(5, PROFILE, common, 3)
    again = synthetic.adapter(5, PROFILE, synthetic.sides(3), 3)
    others = (synthetic.adapter(6, PROFILE, common, 3), synthetic.adapter(5, PROFILE, synthetic.sides(4), 4))
    for name, tensor in first.items():
        assert (tensor == again[name]).all()
        assert all((tensor != other[name]).any() for other in others)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up fleet."""
    folder = tmp_path_factory.mktemp("fleets") / "made-up"
    common = dict(list(synthetic.sides(0).items())[:2])
    for number in range(8):
        synthetic.write(folder / f"{number:05}", synthetic.adapter(number, PROFILE, common, 0))
    return folder


def test_a_made_up_fleet_is_like_its_profile() -> None:
    common = synthetic.sides(0)
    adapters = []
    for number in range(200):
        tensors = synthetic.adapter(number, PROFILE, common, 0)
        parts = {name.rpartition(".lora_")[0] for name in tensors}
        modules = {
            part: LoraFactors(
                *(torch.from_numpy(tensors[f"{part}.lora_{side}.weight"]) for side in "AB"),  # type: ignore[arg-type]
            )
            for part in parts
        }
        adapters.append(shares.normalised(Adapter(modules)))
    found = shares.shares(shares.of_all(adapters[:160]), adapters[160:], [SHARED])
    assert found.mean == pytest.approx(PROFILE.mean, abs=0.03)
    # Directions that are random still lie a little within shared ones.
    assert found.shared[SHARED] == pytest.approx(PROFILE.shared, abs=0.08)


def test_a_made_up_adapter_has_drawn_spectra(fleet: Path) -> None:
    for module in adaptzip.read(fleet / "00003").modules.values():
        values = torch.linalg.svdvals(module.delta())[: synthetic.RANK]
        assert any(torch.allclose(values, torch.tensor(spectrum), rtol=1e-4) for spectrum in PROFILE.spectra)


def test_a_profile_is_measured_and_kept(fleet: Path, tmp_path: Path) -> None:
    entries = load(fleet)
    assert [entry.left_out for entry in entries[:5]] == [False, False, True, True, False]
    found = measured({"made-up": entries}, 4)
    assert 0 < found.shared < 1
    assert len(found.spectra[0]) == 4
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"mean": found.mean, "shared": found.shared, "spectra": found.spectra}))
    assert Profile.read(path) == found


def test_the_error_of_plain_files_in_some_bytes() -> None:
    sizes = {0.1: 1000, 0.5: 100, 0.9: 10}
    assert error_in(sizes, 100) == pytest.approx(0.5)
    assert error_in(sizes, 10**1.5) == pytest.approx(0.7)
    assert error_in(sizes, 5000) == 0.1
    assert error_in(sizes, 9) is None


def test_rows_of_a_fleet(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(methods, "ERRORS", (0.3, 0.95))
    monkeypatch.setattr(methods, "SHARES", (("always", 0.5),))
    monkeypatch.setattr(methods, "MEAN_RANKS", (4,))
    out = tmp_path / "rows.jsonl"
    words = [str(fleet), "mean alone", "shared basis", "--out", str(out)]
    assert compare.main(words) == 0
    rows = read(out)
    first, _, mean, *_ = rows
    assert first.members.rms == pytest.approx(0.3, rel=0.02)
    assert (first.of, first.held, first.shared) == (8, 8, 0)
    assert first.members.count == 6
    assert first.left_out is not None
    assert first.left_out.count == 2
    assert first.members.gain is None
    assert mean.bytes == mean.shared < first.bytes
    basis = next(row for row in rows if row.method == "shared basis")
    assert basis.held == 8
    assert basis.members.worst <= 0.5
    # A direction of float16 on each side of two modules at least, and the index.
    assert basis.shared > 2 * (64 + 64 + 64 + 64)
    (beside,) = (row for row in rows if row.beside.startswith("shared basis"))
    assert beside.held == basis.held
    assert compare.main(words) == 0
    assert read(out) == rows
    assert "| shared basis | always, error 0.5 |" in capsys.readouterr().out
    assert compare.main([str(fleet), "nothing", "--out", str(out)]) == 2


def test_plain_files_stand_in_the_same_bytes(fleet: Path, tmp_path: Path) -> None:
    entries = load(fleet)[:6]
    run = compare.Run("made-up", entries, tmp_path / "rows.jsonl", 1, tmp_path)
    among = Among.of(entries)
    for error in (0.2, 0.9):
        run._add(among, "svd", f"{error}", plain(among.all, error, tmp_path))
    held = plain({name: among.all[name] for name in list(among.all)[:3]}, 0.5, tmp_path)
    beside = run._beside(among, held)
    assert beside is not None
    assert beside.adapters.keys() == held.adapters.keys()
    assert beside.bytes == pytest.approx(held.bytes, rel=0.05)


class FakeEnvironments(Environments):
    """A peer that gives back what it gets, and says what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Any] = []

    def ask(self, package: Package, arrays: Arrays, settings: Sequence[Any]) -> list[Answer]:
        if package is not VLORA:
            raise PeerAbsentError("nobody is there")
        self.asked += settings
        return [Answer(123, dict(arrays))]


def test_peers_get_adapters_of_one_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, rank in enumerate((4, 4, 4, 8)):
        adaptzip.export(made({"l.q": (24, 16, rank)}, seed=number), tmp_path / str(number), as_="peft")
    fake, entries = FakeEnvironments(), load(tmp_path)
    among = Among.of(entries)
    found = peers.vlora(fake, among, (64, True), tmp_path)
    assert found.bytes == found.shared == 123
    assert sorted(found.adapters) == ["0", "1", "2"]
    assert fake.asked == [[1, True, ["2"]]]
    run = compare.Run("x", entries, tmp_path / "rows.jsonl", 1, tmp_path)
    run.measure([methods.methods(fake)["lorashare"]])
    assert not run.rows
    assert "lorashare, 4 components: nobody is there" in capsys.readouterr().err


def test_a_table_shows_plain_files_beside() -> None:
    told = Told(3, 0.5, 0.4, 0.41, 0.8, 0.7)
    rows = [
        Row("k", "mean alone", "rank 1", 4, 3, 1000, 1000, told, None),
        Row("k", "svd", "beside", 4, 3, 990, 0, Told(3, 0.9, 0.9, 0.9, 0.2, 0.1), told, 0.9, "mean alone, rank 1"),
    ]
    _, _, line = tables.table(rows).splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:5] == ["mean alone", "rank 1", "3 of 4", "1,000", "1,000"]
    assert cells[8:] == ["80 %", "70 %", "-", "-", "-", "20 %", "10 %", "80 %"]
    assert tables.best([(30, 0.5), (10, 0.4), (20, 0.3)]) == [(10, 0.4), (30, 0.5)]


def test_a_command_is_run_over_more_and_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = """
import pathlib, sys
out = pathlib.Path(sys.argv[1])
out.mkdir()
(out / "n").write_bytes(b"x" * len(sys.argv[2:]))
"""
    words = ["--", sys.executable, "-c", program, "{OUT}", "{SOURCES}"]
    assert growth.main(["--sizes", "2", "3", "--work", str(tmp_path), *words]) == 0
    assert (tmp_path / "out" / "n").read_bytes() == b"xxx"
    assert "| 3 |" in capsys.readouterr().out


def test_a_command_that_fails_stops_the_benchmark() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        growth.run([sys.executable, "-c", "raise SystemExit(3)"])


def test_memory_and_time_are_those_of_the_child() -> None:
    small = growth.run([sys.executable, "-c", "pass"])
    large = growth.run([sys.executable, "-c", "x = b'x' * 80_000_000; sum(range(3_000_000))"])
    assert large[2] - small[2] > 70_000_000
    assert large[0] > small[0]


def test_growth_leaves_fixed_costs_out() -> None:
    used = [growth.Used(n, 5 + 0.01 * n, 1.0, 1000, 0) for n in (100, 1000, 10_000)]
    assert "to the power 1.00" in growth.table(used)
    grown = [growth.Used(n, 0.01 * n ** (log(3) / log(2)), 1.0, n, 0) for n in (100, 1000, 10_000)]
    assert "peak memory 100.00-fold" in growth.table(grown)


def test_words_of_a_command(tmp_path: Path) -> None:
    found = growth.words(
        ("adaptzip", "x", "{SOURCES}", "{FLEET}", "-o", "{OUT}"), [Path("a"), Path("b")], Path("f"), Path("o")
    )
    assert found == [sys.executable, "-m", "adaptzip", "x", "a", "b", "f", "-o", "o"]


def test_growth_tells_of_a_store(tmp_path: Path) -> None:
    assert growth.told_of(tmp_path) == ""
    synthetic.main(["--out", str(tmp_path / "fleet"), "--count", "5"])
    store = tmp_path / "store"
    adaptzip.compress_fleet([tmp_path / "fleet"], store, max_error=0.3)
    size = sum(file.stat().st_size for file in store.glob("*.adz"))
    text = growth.told_of(store)
    assert text.startswith(f"The last 5 adapters take {size:,} bytes in their store, 0 of it shared, and {size:,} by")
    assert text.endswith("The median error is 0.30.\n")
