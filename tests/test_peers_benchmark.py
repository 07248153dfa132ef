"""The benchmark beside every peer: how peers are asked, and what it does where one is absent."""

from __future__ import annotations

import json
import subprocess
import sys
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

import adaptzip
from adaptzip.testing.adapters import adapter as made
from benchmarks import page, real_adapters
from benchmarks.peers import coders, environments, gains, ours, sets
from benchmarks.peers.__main__ import main
from benchmarks.peers.contenders import contenders
from benchmarks.peers.environments import Environments, PeerAbsentError, PeerFailedError
from benchmarks.peers.packages import PACKAGES, ZIPNN, Package
from benchmarks.peers.rows import Row, Run, names
from benchmarks.peers.tables import tables
from benchmarks.storage import error_of

ADAPTER = made({"l.0.q": (24, 16, 4), "l.0.v": (16, 16, 4)}, seed=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    adaptzip.export(ADAPTER, tmp_path / "tiny", as_="peft")
    return tmp_path / "tiny"


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


PACKAGED = {
    "as stored, ZipNN",
    "float16, ZipNN",
    "NF4 (bitsandbytes)",
    "NF4, scales quantised too (bitsandbytes)",
    "NNCodec",
    "NNCodec of scaled factors",
    "EntroPack",
    "PEFT save_as_lora",
}


@pytest.mark.parametrize("name", [name for name in names() if name not in {"vlora-dev", "lorashare"}])
def test_every_contender_says_its_bytes_and_error_or_needs_a_package(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(monkeypatch, 1)
    (one,) = (contender for contender in contenders(Environments(tmp_path)) if contender.name == name)
    if name in PACKAGED:
        with pytest.raises(PeerAbsentError):
            one.measure(ADAPTER)
        return
    points = one.measure(ADAPTER)
    assert points
    for point in points:
        assert 0 < point.bytes < 4.2 * ADAPTER.parameters
        assert 0 <= point.error <= 1


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


def test_an_error_that_quantisation_does_not_reach_is_met_without_loss(folder: Path) -> None:
    (real,) = real_adapters.find([folder])
    assert ours.file_at(real, 0.1).error > 0
    near = ours.file_at(real, 1e-5)
    assert (near.error, near.bytes) == (0, ours.lossless_bytes(real))


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
