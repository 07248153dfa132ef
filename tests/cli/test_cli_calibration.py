"""`--calibration` in every command: named fields, the adapter's tokeniser, and which error is the weighted one."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import adaptzip
from adaptzip.core.sensitivity import Sensitivity
from tests.cases.models_on_disk import TEXTS
from tests.cases.tasks import language
from tests.cli.cli_cases import refused, run

COMMANDS = {
    "compress": "compress {adapter} --base {base} --budget 50% -o {out}",
    "plan": "plan {adapter} --base {base} --budget 50% --to svd",
    "bench": "bench {adapter} --base {base} --to svd -b 50%",
    "diff": "diff {adapter} {packed} --base {base}",
    "verify": "verify {packed} --against {adapter} --base {base}",
    "basis build": "basis build --gradient --base {base} --modules-of {adapter} -k 2 -o {out}",
}


@dataclass(frozen=True)
class Place:
    """A base, an adapter and a file of it, and texts under usual names and under others."""

    base: Path
    adapter: Path
    packed: Path
    usual: Path
    named: Path

    def words(self, command: str, out: Path) -> list[str]:
        given = {"base": self.base, "adapter": self.adapter, "packed": self.packed, "out": out}
        return [word.format(**given) for word in COMMANDS[command].split()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("place")
    task = language(folder, target_modules=["q_proj", "down_proj"])
    packed = folder / "packed.adz"
    adaptzip.compress(task.adapter, packed, max_error=0.3)
    usual, named = folder / "usual.jsonl", folder / "named.jsonl"
    for path, fields in ((usual, ("prompt", "completion")), (named, ("question", "answer"))):
        path.write_text("".join(json.dumps(dict(zip(fields, (t, " c b a"), strict=True))) + "\n" for t in TEXTS))
    return Place(task.base, task.adapter, packed, usual, named)


def told(place: Place, command: str, out: Path, *words: str | Path) -> object:
    """What a command says, but for the file's name and its time."""
    result = run(*place.words(command, out), *words, "--json")
    assert result.code == 0, result.err
    values = {key: value for key, value in result.json.items() if key not in ("path", "hash")}
    return values, out.read_bytes() if out.exists() else b""


@pytest.mark.parametrize("command", COMMANDS)
def test_fields_are_named_in_every_command(command: str, place: Place, tmp_path: Path) -> None:
    usual = told(place, command, tmp_path / "a.out", "--calibration", place.usual)
    fields = ("--text-field", "question", "--completion-field", "answer")
    named = told(place, command, tmp_path / "b.out", "--calibration", place.named, *fields)
    assert named == usual
    words = place.words(command, tmp_path / "c.out")
    refused(run(*words, "--calibration", place.named), 2, "--completion-field")
    for option in ("--text-field", "--text-pair-field", "--completion-field"):
        refused(run(*words, option, "question"), 2, f"{option} was given without --calibration")
    refused(run(*words, "--calibration", place.named, "--text-pair-field", "answer"), 2, "name both: --text-field")


@pytest.mark.parametrize("command", ["compress", "diff", "verify", "basis build"])
def test_the_adapters_tokeniser_is_taken(command: str, place: Place, tmp_path: Path) -> None:
    """Its folder brings one in which two letters are swapped, and so do the texts."""
    adapter = tmp_path / "adapter"
    shutil.copytree(place.adapter, adapter)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(place.base / name, adapter)
    text = (adapter / "tokenizer.json").read_text()
    (adapter / "tokenizer.json").write_text(text.replace('"a"', '"x"').replace('"b"', '"a"').replace('"x"', '"b"'))
    swapped = tmp_path / "swapped.jsonl"
    rows = [{"prompt": text, "completion": " c b a"} for text in TEXTS]
    table = str.maketrans("ab", "ba")
    swapped.write_text("".join(json.dumps({k: v.translate(table) for k, v in row.items()}) + "\n" for row in rows))
    own = Place(place.base, adapter, place.packed, place.usual, place.named)
    keys = ("weighted_error", "hash")

    def found(where: Place, out: str, texts: Path) -> list[object]:
        values = run(*where.words(command, tmp_path / out), "--calibration", texts, "--json").json
        return [values.get(key) for key in keys]

    assert found(own, "a.out", place.usual) == found(place, "b.out", swapped) != found(place, "c.out", place.usual)


@pytest.fixture
def weighed(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[str | Path]:
    """Words that calibrate, where it is known what calibration finds: one kind of module counts for more."""
    weights = {name: Sensitivity(9.0 if "down" in name else 0.5) for name in adaptzip.read(place.adapter).modules}
    found = SimpleNamespace(sensitivities=weights, importance={})
    monkeypatch.setattr("adaptzip.fitting.calibration.calibrate", lambda *_, **__: found)
    return ["--budget", "30%", "--base", place.base, "--calibration", place.usual]


@pytest.mark.parametrize("command", ["compress", "diff", "verify", "basis build"])
def test_texts_that_are_left_out_are_told(command: str, place: Place, tmp_path: Path) -> None:
    rows = [{"prompt": "a b " * repeats, "completion": " c"} for repeats in (1, 1, 400)]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(*place.words(command, tmp_path / "out"), "--calibration", texts)
    assert result.code == 0, result.err
    assert "1 of 3 texts have no token that counts within" in result.err
    texts.write_text(json.dumps(rows[-1]) + "\n")
    words = *place.words(command, tmp_path / "other"), "--calibration", texts
    refused(run(*words), 1, "no completion begins within", "shorter prompts")


def test_the_summary_says_which_error_is_weighted(place: Place, weighed: list[str | Path], tmp_path: Path) -> None:
    asked = ("compress", place.adapter, *weighed, "-o", tmp_path / "small.adz", "-f")
    values = run(*asked, "--json").json
    plain = run("diff", place.adapter, tmp_path / "small.adz", "--json").json
    assert values["relative_error"] == pytest.approx(plain["relative_error"], rel=1e-4)
    assert 0 < values["weighted_error"] != values["relative_error"]
    said = run(*asked).err
    errors = (f"{values[key]:.3g}" for key in ("relative_error", "weighted_error"))
    assert "error {}, weighted error {}; budget 30 % of the source)".format(*errors) in said
    assert "of its part of the budget" not in said or "at weighted error" in said
    chosen = run(*asked, "--to", "auto").err
    assert "parameters  weighted error" in chosen
    assert "svd reaches" not in chosen or "svd reaches weighted error" in chosen
    dry = run(*asked, "-n", "--json").json
    assert dry["relative_error"] is None
    assert dry["weighted_error"] == pytest.approx(values["weighted_error"], rel=0.3)
    assert ", weighted error " in run(*asked, "-n").out


def test_a_plan_says_whose_errors_are_weighted(place: Place, weighed: list[str | Path], tmp_path: Path) -> None:
    asked = ("plan", place.adapter, *weighed, "--to", "svd", "-o", tmp_path / "plan.json", "-f")
    assert run(*asked, "--json").json["weighted"]
    said = run(*asked)
    assert "parameters  weighted error" in said.out
    assert ", weighted error " in said.err


def test_without_calibration_nothing_is_weighted(place: Place, tmp_path: Path) -> None:
    asked = ("compress", place.adapter, "--budget", "30%", "-o", tmp_path / "small.adz", "-f")
    assert run(*asked, "--json").json["weighted_error"] is None
    assert "weighted" not in run(*asked).err
    assert not run("plan", place.adapter, "--budget", "30%", "--to", "svd", "--json").json["weighted"]
