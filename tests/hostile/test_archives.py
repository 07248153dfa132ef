"""Small files that would become large, or take long: refused in child processes under limits, and read on request."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.limits import VARIABLE, Limits, current
from adaptzip.errors import AdaptzipError, FormatError, RefusedError
from tests.cli.cli_cases import run
from tests.hostile.archives import HOSTILE, one, slow, zeros
from tests.hostile.children import Ended, ran

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")

COMMANDS = (["inspect"], ["export", "-o", "out"])


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, Ended]]:
    """Kinds, sizes of their files, and what became of each command."""
    folder = tmp_path_factory.mktemp("hostile")
    made: list[tuple[str, int]] = []
    lines: list[list[object]] = []
    made_here = [(kind, make()) for kind, make in HOSTILE.items()]
    for number, (kind, content) in enumerate((*made_here, *slow())):
        path = folder / f"{number}.adz"
        path.write_bytes(content)
        for command in COMMANDS:
            made.append((f"{command[0]} of {kind}", len(content)))
            lines.append([word.replace("out", str(folder / f"{number} {len(lines)}")) for word in command] + [path])
    found = ran(lines)
    return [(*told, one) for told, one in zip(made, found, strict=True)]


def test_none_takes_much_time_or_memory(ended: list[tuple[str, int, Ended]]) -> None:
    codes = {kind: child.code for kind, _, child in ended if child.code not in (0, 2, 3)}
    assert codes == {}
    taken = {kind: child.peak for kind, size, child in ended if child.peak > 10**8 + 10 * size}
    assert taken == {}


def test_what_goes_beyond_a_budget_is_refused_in_few_words(ended: list[tuple[str, int, Ended]]) -> None:
    for kind, _, child in ended:
        assert len(child.err) < 1000, kind
        if not kind.startswith("inspect") and kind.endswith(tuple(HOSTILE)):
            assert child.code in (2, 3), kind
            assert child.err.startswith("error: "), kind


def test_everything_is_read_where_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.adz"
    path.write_bytes(zeros([["m.{0-9999}", 8, 8]], 10**4).build())
    with pytest.raises(RefusedError, match=r"x\.adz: it has 10,000 modules, and a file of [\d,]+ bytes may have 5,"):
        adaptzip.open(path)
    assert len(adaptzip.open(path, limits=Limits.none()).modules) == 10_000
    with Limits(modules=10_000).held():
        assert len(adaptzip.read(path).modules) == 10_000
        with pytest.raises(RefusedError):
            adaptzip.read(path, limits=Limits())
    refused = run("verify", path)
    assert refused.code == 3
    assert "--allow-large" in refused.err
    assert run("verify", path, "--allow-large").code == 0
    assert current() == Limits()
    monkeypatch.setenv(VARIABLE, "1")
    assert run("verify", path).code == 0


def test_each_budget_is_one_of_its_own() -> None:
    made = {
        "modules": Limits(modules=1, modules_per_byte=0),
        "name": Limits(name=1),
        "names": Limits(names=1, names_per_byte=0),
        "numbers": Limits(numbers=1, numbers_per_byte=0),
    }
    words = {"modules": "2 modules", "name": "name of 3 char", "names": "7 characters", "numbers": "28 numbers"}
    content = zeros([["m.{0-1}", 8, 6]], 2).build()
    for budget, limits in made.items():
        with pytest.raises(RefusedError, match=words[budget]):
            adaptzip.open(content, limits=limits)
    golden = Path(__file__).parents[2] / "formats" / "golden" / "extras.adz"
    for limits, word in (
        (Limits(extras=1, extras_per_byte=0), "tensors beside"),
        (Limits(extra_bytes=1, extra_bytes_per_byte=0), "bytes"),
    ):
        with pytest.raises(RefusedError, match=word):
            adaptzip.open(golden, limits=limits)
        adaptzip.open(golden)


def test_a_lossless_file_tells_its_ranks_late() -> None:
    golden = Path(__file__).parents[2] / "formats" / "golden" / "lossless.adz"
    opened = adaptzip.open(golden)
    with pytest.raises(RefusedError, match="numbers"):
        adaptzip.reconstruct(opened, limits=Limits(numbers=1, numbers_per_byte=0))
    assert adaptzip.reconstruct(opened).modules


def test_one_rank_for_all_modules_is_limited(tmp_path: Path) -> None:
    wide = LoraFactors(torch.zeros(0, 2**12), torch.zeros(2**12, 0), 1.0)
    modules = {f"m.{n}": wide for n in range(4)} | {"q": LoraFactors(torch.ones(64, 64), torch.ones(64, 64), 1.0)}
    with Limits(numbers=1).held():
        with pytest.raises(RefusedError, match="64, makes 2,105,344 numbers of 8,192, more than"):
            adaptzip.export(Adapter(modules), tmp_path / "out", portable=True)
        adaptzip.export(Adapter(modules), tmp_path / "own")
    adaptzip.export(Adapter(modules), tmp_path / "out", portable=True)


def test_what_was_made_here_is_not_held_to_limits() -> None:
    import pickle

    opened = adaptzip.open(zeros([["m.{0-9999}", 8, 8]], 10**4).build(), limits=Limits.none())
    assert len(pickle.loads(pickle.dumps(opened)).modules) == 10_000
    with pytest.raises((RefusedError, FormatError)):
        adaptzip.open(opened.to_bytes())
    assert isinstance(one().build(), bytes)
    assert issubclass(RefusedError, AdaptzipError)
