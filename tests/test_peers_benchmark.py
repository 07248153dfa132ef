"""The benchmark beside every peer: its arithmetic, its formulas, and what it does where a peer is absent."""

from __future__ import annotations

import json
import subprocess
import sys
from math import log2, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.testing.adapters import adapter as made
from benchmarks import page, real_adapters
from benchmarks.peers import coders, environments, gains, ours, papers, sets
from benchmarks.peers.__main__ import main
from benchmarks.peers.contenders import contenders
from benchmarks.peers.environments import Environments, PeerAbsentError, PeerFailedError
from benchmarks.peers.packages import PACKAGES, ZIPNN, Package
from benchmarks.peers.rates import Point, bytes_at, delta_rate, error_at, frontier
from benchmarks.peers.rows import Row, Run, names
from benchmarks.peers.tables import tables
from benchmarks.storage import error_of


def curve(*pairs: tuple[float, float]) -> list[Point]:
    """Points of an error and bytes."""
    return [Point(f"{error:g}", size, error) for error, size in pairs]


ADAPTER = made({"l.0.q": (24, 16, 4), "l.0.v": (16, 16, 4)}, seed=1)
LOCAL = [one for one in contenders(Environments()) if "environments" not in str(one.measure)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    adaptzip.export(ADAPTER, tmp_path / "tiny", as_="peft")
    return tmp_path / "tiny"


def test_the_delta_rate_of_two_lines_by_hand() -> None:
    # Log bytes are lines of log error; above ours by log 1 at one end and log 4 at the other, by log 2 in the mean.
    mine, theirs = curve((0.1, 1000), (0.4, 250)), curve((0.1, 1000), (0.4, 1000 - 1e-9))
    found = delta_rate(mine, theirs)
    assert found is not None
    assert found.rate == pytest.approx(1, rel=1e-6)
    assert (found.low, found.high) == (0.1, 0.4)


@pytest.mark.parametrize("factor", [0.5, 1.25, 3.0])
def test_the_delta_rate_of_a_shifted_curve_is_its_shift(factor: float) -> None:
    mine = curve((0.02, 9000), (0.05, 5200), (0.1, 4000), (0.3, 900), (0.8, 50))
    found = delta_rate(mine, [Point("", factor * point.bytes, point.error) for point in mine])
    assert found is not None
    assert found.rate == pytest.approx(factor - 1, rel=1e-9)
    back = delta_rate([Point("", factor * point.bytes, point.error) for point in mine], mine)
    assert back is not None
    assert back.rate == pytest.approx(1 / factor - 1, rel=1e-9)


def test_the_delta_rate_covers_the_errors_of_both() -> None:
    mine, theirs = curve((0.1, 400), (0.4, 100)), curve((0.2, 400), (0.8, 100))
    found = delta_rate(mine, theirs)
    assert found is not None
    assert (found.low, found.high) == (0.2, 0.4)
    assert found.rate == pytest.approx(1, rel=1e-9)
    assert delta_rate(mine, curve((0.5, 400), (0.8, 100))) is None
    assert delta_rate(mine, curve((0.2, 400))) is None


def test_between_points_and_outside() -> None:
    points = curve((0.1, 400), (0.4, 100))
    assert bytes_at(points, 0.2) == pytest.approx(200)
    assert error_at(points, 200) == pytest.approx(0.2)
    assert bytes_at(points, 0.1) == pytest.approx(400)
    assert bytes_at(points, 0.09) is bytes_at(points, 0.5) is error_at(points, 99) is error_at(points, 401) is None


def test_what_is_beaten_in_both_is_no_part_of_a_curve() -> None:
    points = curve((0.0, 900), (0.1, 400), (0.2, 450), (0.2, 300), (0.3, 300), (1.0, 10))
    assert frontier(points) == curve((0.1, 400), (0.2, 300))


def test_compeft_by_hand() -> None:
    tensor = torch.tensor([[4.0, -3.0], [1.0, 0.0]])
    # The mean is 0.5 and the deviations are 3.5, -3.5, 0.5 and -0.5.
    assert papers.ternary(tensor, 0.5).tolist() == [[2.5, -2.5], [0.0, 0.0]]
    assert papers.ternary_bits(0.5) == 1.5
    assert papers.ternary_bits(2 / 3) == pytest.approx(log2(3))
    assert papers.ternary_bits(0.0) == 0


def test_compeft_counts_symbols_and_scalars_and_has_the_best_factor() -> None:
    point = papers.compeft(ADAPTER, 0.25)
    # 4 * (24 + 16) and 4 * (16 + 16) numbers of which a quarter are kept, in four tensors.
    bits = 288 * (0.25 * 3 + 0.75 * log2(4 / 3)) + 4 * 16
    assert point.bytes == -(-bits // 8)
    plain = {
        name: LoraFactors(papers.ternary(m.A, 0.25), papers.ternary(m.B, 0.25), m.scaling)
        for name, m in ADAPTER.modules.items()
    }
    best = papers.best_alpha(ADAPTER.modules, plain)
    for factor in (0.9, 1.1):
        other = {n: LoraFactors(factor * best * m.A, factor * best * m.B, m.scaling) for n, m in plain.items()}
        assert error_of(ADAPTER, other) > point.error


def test_compeft_keeps_what_is_ternary() -> None:
    A = torch.tensor([[3.0, -3.0, 0.0, 0.0]])
    exact = Adapter({"m": LoraFactors(A, 7 * A.T, 2.0)})
    assert papers.compeft(exact, 0.5).error == pytest.approx(0, abs=1e-6)


def test_loraquant_by_hand() -> None:
    assert papers.signed(torch.tensor([[1.0, -3.0, 2.0, -2.0]])).tolist() == [[2, -2, 2, -2]]
    levels = torch.tensor([[-1.0, 0.0, 1.0, 2.0]])
    assert torch.equal(papers.rounded(levels, 2), levels)
    assert papers.rounded(torch.tensor([[0.0, 0.4, 0.6, 3.0]]), 2).tolist() == [[0, 0, 1, 3]]
    S = torch.tensor([2.0, 1.0, 1.0])
    assert [papers.split(S, ratio) for ratio in (0.5, 0.8, 1.0)] == [1, 2, 3]


def test_loraquant_groups_have_scales_of_their_own() -> None:
    rows = torch.cat([torch.ones(1, 128), torch.full((1, 2), -5.0)], dim=1)
    assert torch.equal(papers.signed(rows), rows)


def test_loraquant_counts_bits_scales_and_zero_points() -> None:
    one = Adapter({"m": LoraFactors(torch.eye(2, 200), torch.eye(100, 2) * torch.tensor([3.0, 1.0]))})
    # A component of 100 + 200 numbers in 2 bits with 1 + 2 groups, and one in signs.
    assert papers.loraquant(one, 2, 0.9).bytes == -(-(2 * 300 + 3 * 18 + 300 + 3 * 16) // 8)


def test_resize_rules_by_hand() -> None:
    S = torch.tensor([4.0, 2.0, 1.0, 1.0])
    assert [papers.fixed(rank)(S) for rank in (1, 3, 9)] == [1, 3, 4]
    assert [papers.sv_ratio(ratio)(S) for ratio in (1.0, 2.0, 3.0, 5.0)] == [1, 1, 2, 4]
    assert [papers.cumulative(share)(S) for share in (0.1, 0.5, 0.51, 0.75, 1.0)] == [1, 1, 2, 2, 4]
    # The squares are 16, 4, 1 and 1, of 22.
    assert [papers.sv_fro(share)(S) for share in (0.8, sqrt(17 / 22), 0.96, 1.0)] == [1, 2, 3, 4]


def test_a_resized_adapter_loses_what_is_cut() -> None:
    point = papers.resized(ADAPTER, papers.fixed(2), "rank 2")
    assert point.bytes == 2 * 2 * (24 + 16 + 16 + 16)
    squares = [torch.linalg.svdvals(m.delta().double()).square() for m in ADAPTER.modules.values()]
    lost = sum(float(one[2:].sum()) for one in squares) / sum(float(one.sum()) for one in squares)
    assert point.error == pytest.approx(sqrt(lost), rel=1e-3)


@pytest.mark.parametrize("name", [one.name for one in LOCAL])
def test_every_formula_says_its_bytes_and_error(name: str) -> None:
    (one,) = (contender for contender in LOCAL if contender.name == name)
    points = list(one.measure(ADAPTER))
    assert points
    for point in points:
        assert 0 < point.bytes < 4.2 * ADAPTER.parameters
        assert 0 <= point.error <= 1


def test_factors_come_back() -> None:
    assert error_of(ADAPTER, coders.rebuilt(ADAPTER, coders.factors(ADAPTER)).modules) == pytest.approx(0, abs=1e-6)


def installed(place: Path, program: str) -> Environments:
    """Environments in which ZipNN's interpreter is a program of ours."""
    python = place / ZIPNN.name / "bin" / "python"
    python.parent.mkdir(parents=True)
    (place / ZIPNN.name / "installed.txt").write_text("\n".join(ZIPNN.requirements))
    python.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(environments.ROOT)!r})\n{program}")
    python.chmod(0o755)
    return Environments(place)


def test_a_peer_is_asked_in_its_environment(tmp_path: Path) -> None:
    program = """
sys.argv = ["driver", sys.argv[-1]]
from benchmarks.peers.drivers.exchange import serve
serve(lambda arrays, by: (10 * by, {name: array * by for name, array in arrays.items()}))
"""
    first, second = installed(tmp_path, program).ask(ZIPNN, {"a|A": np.arange(3)}, [1, 2])
    assert (first.bytes, second.bytes) == (10, 20)
    assert second.arrays["a|A"].tolist() == [0, 2, 4]


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(PeerFailedError, match="ZipNN 0.5.4: expected an answer, found 'ValueError: no such thing'"):
        installed(tmp_path, "raise ValueError('no such thing')").ask(ZIPNN, {}, [None])


def answered(monkeypatch: pytest.MonkeyPatch, code: int) -> list[list[str]]:
    """What is run, all of which ends so; an environment is a folder."""
    ran: list[list[str]] = []

    def run(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(words)
        if "venv" in words:
            Path(words[-1]).mkdir(parents=True)
        return subprocess.CompletedProcess(words, code, stderr="line\nERROR: no such version\n\n")

    monkeypatch.setattr(subprocess, "run", run)
    return ran


def test_a_peer_is_installed_once_in_exact_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = answered(monkeypatch, 0)
    for _ in range(2):
        Environments(tmp_path).python(ZIPNN)
    made, pip = ran
    assert made[-1] == str(tmp_path / "ZipNN")
    assert pip[-2:] == list(ZIPNN.requirements)
    assert "--no-binary=zipnn" in pip


def test_a_peer_that_cannot_be_installed_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, found = answered(monkeypatch, 1), Environments(tmp_path)
    for _ in range(2):
        with pytest.raises(
            PeerAbsentError, match=r"ZipNN 0.5.4: expected an environment, found 'ERROR: no such version'"
        ):
            found.python(ZIPNN)
    assert len(ran) == 1


def test_an_absent_peer_is_named_and_nothing_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answered(monkeypatch, 1)
    monkeypatch.setattr(ours, "ERRORS", (0.1, 0.2, 0.316, 0.5))
    monkeypatch.setattr(page, "put", lambda *_: pytest.fail("the page is written"))
    words = ["--only", "EntroPack", "--environments", str(tmp_path / "peers"), "--json", "--write"]
    assert main([str(folder), *words]) == 1
    told = capsys.readouterr()
    assert "EntroPack is missing: EntroPack 0.1.5: expected an environment" in told.err
    assert "nothing is written: rows of" in told.err
    assert "EntroPack" not in {row["peer"] for row in json.loads(told.out)}


def test_what_was_measured_is_taken_from_the_results(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ours, "ERRORS", (0.1, 0.2, 0.316, 0.5))
    results = tmp_path / "rows.jsonl"
    words = [str(folder), "--only", "global ranks, int4", "--results", str(results)]
    assert main(words) == 0
    first, lines = capsys.readouterr().out, results.read_text()
    assert {json.loads(line)["peer"] for line in lines.splitlines()} == {"adaptzip", "float16", "global ranks, int4"}
    monkeypatch.setattr(ours, "file_at", lambda *_: pytest.fail("measured again"))
    assert main(words) == 0
    assert (capsys.readouterr().out, results.read_text()) == (first, lines)


def test_no_peer_is_imported_here() -> None:
    peers = {"nncodec", "entropack", "bitsandbytes", "zipnn", "peft", "vlora", "lorashare"}
    program = "import sys, benchmarks.peers.__main__; print(*{name.split('.')[0] for name in sys.modules})"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not peers & set(out.split())


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_package_has_a_driver_and_exact_versions(package: Package) -> None:
    assert (environments.ROOT / "benchmarks" / "peers" / "drivers" / f"{package.driver}.py").is_file()
    assert all("==" in requirement for requirement in package.requirements)
    assert package.version == package.requirements[0].split("==")[1]


def test_sets_are_of_the_same_modules_and_ranks(tmp_path: Path) -> None:
    shapes = {"l.0.q": (24, 16, 4)}
    for name, kind in {"a": shapes, "b": shapes, "c": {"l.0.q": (24, 16, 2)}}.items():
        adaptzip.export(made(kind, seed=ord(name)), tmp_path / name, as_="peft")
    (among,) = sets.found(real_adapters.find([tmp_path]))
    assert sets.name(among) == "a + b"
    arrays = {f"{real.name}|{key}": array for real in among for key, array in coders.factors(real.adapter).items()}
    arrays = {key: array * (0.5 if key.startswith("a|") and key.endswith("B") else 1) for key, array in arrays.items()}
    point = sets._point(among, "half of a", 1000, arrays)
    energy = [float(real.parts.energy.sum()) for real in among]
    assert point.error == pytest.approx(sqrt(0.25 * energy[0] / sum(energy)), rel=1e-5)
    files = [ours.file_at(among[0], 0.5), ours.file_at(among[1], 0.0)]
    assert point.ours == pytest.approx(sum(file.bytes for file in files), rel=0.01)


def rows(bytes_of: float) -> list[Row]:
    """An adapter, ours at four errors, and one peer at so many times our bytes."""
    mine = [Row("a", ours.NAME, ours.setting(error), 100 / error, error) for error in ours.ERRORS]
    theirs = [Row("a", "EntroPack", str(row.error), bytes_of * row.bytes, row.error) for row in mine]
    return [Row("a", "float16", "", 4000, 2e-4), Row("a", ours.NAME, ours.setting(2e-4), 3000, 2e-4), *mine, *theirs]


@pytest.mark.parametrize(
    ("factor", "line"),
    [
        (2.0, "| EntroPack | 2.00 | 2.00 | 2.00 | 2.00 | +100 % | 0.02 to 0.9 | 0 of 1 | 1 |"),
        (0.5, "| EntroPack | **0.50** | **0.50** | **0.50** | **0.50** | **-50 %** | 0.02 to 0.9 | **1 of 1** | 1 |"),
    ],
)
def test_a_peer_that_wins_is_shown_winning(factor: float, line: str) -> None:
    run = Run(Environments())
    run.rows = rows(factor)
    found = tables(run, ["a"])
    assert line in found["peers-curves"]
    assert ("**" in found["peers-errors"]) == (factor < 1)
    assert "| float16 | 1.00 | 0.0002 | 1.33 | 1.33 | 0 of 1 |" in found["peers-storages"]
    assert "EntroPack" not in tables(run, [])["peers-storages"]


def test_bytes_at_equal_gain_by_hand() -> None:
    curve = [gains.Kept("m", 100, 0.2, 0.9), gains.Kept("m", 400, 0.6, 0.1), gains.Kept("m", 900, 0.5, 0.05)]
    assert gains.bytes_at_gain(curve, 0.4) == pytest.approx(200)
    assert gains.bytes_at_gain(curve, 0.6) == pytest.approx(400)
    assert gains.bytes_at_gain(curve, 0.7) is None
    assert gains.bytes_at_divergence(curve[:2], 0.3) == pytest.approx(200)


def test_a_peer_of_fewer_bytes_at_a_gain_is_bold() -> None:
    rows = [gains.Kept("adaptzip", size, gain, 1 - gain) for size, gain in ((100, 0.3), (400, 0.97))]
    rows += [gains.Kept("other", one.bytes // 2, one.gain, one.kl) for one in rows]
    (line,) = (line for line in gains.table(rows).splitlines() if line.startswith("| other"))
    assert line.count("(0.50)**") == len(gains.GAINS) + 1


def test_the_page_has_the_language_model_and_places_for_all_tables() -> None:
    recorded = gains.recorded()
    assert {"adaptzip", "NNCodec of scaled factors", "EntroPack"} <= {row.method for row in recorded}
    assert all(row.bytes > 0 and row.kl >= 0 for row in recorded)
    text = page.PAGE.read_text(encoding="utf-8")
    assert [text.count(f"<!-- benchmark: {name} -->\n") for name in tables(Run(Environments()), [])] == [1] * 6


def test_names_are_different() -> None:
    assert len(set(names())) == len(names())
