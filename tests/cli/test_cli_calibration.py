"""`--calibration` in every command: named fields, the adapter's tokeniser, and which error is the weighted one."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli_cases import refused, run

import adaptzip
from tests.calibration.models_on_disk import TEXTS
from tests.distillation.tasks import language

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
    task = language(folder, target_modules=["q_proj", "down_proj", "o_proj"])
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


def test_the_summary_says_which_error_is_weighted(place: Place, tmp_path: Path) -> None:
    weighing = ("--base", place.base, "--calibration", place.usual)
    asked = ("compress", place.adapter, "--budget", "30%", "-o", tmp_path / "small.adz", "-f")
    values = run(*asked, *weighing, "--json").json
    checked = run("diff", place.adapter, tmp_path / "small.adz", *weighing, "--json").json
    assert values["relative_error"] == pytest.approx(checked["relative_error"], rel=1e-4)
    # The one that was minimised is made of more than inputs, so that it is another than that of diff.
    assert 0 < values["weighted_error"] < values["relative_error"]
    said = run(*asked, *weighing).err
    errors = (f"{values[key]:.3g}" for key in ("relative_error", "weighted_error"))
    assert "error {}, weighted error {})".format(*errors) in said
    assert "of its part of the budget" not in said or "at weighted error" in said
    chosen = run(*asked, *weighing, "--to", "auto")
    assert chosen.err.splitlines()[-1].count("error ") == 2
    assert "parameters  weighted error" in chosen.err
    foreseen = run("plan", place.adapter, "--budget", "30%", *weighing)
    assert "parameters  weighted error" in foreseen.out
    assert run("plan", place.adapter, "--budget", "30%", *weighing, "--json").json["weighted"]
    dry = run(*asked, *weighing, "-n", "--json").json
    assert dry["relative_error"] is None
    assert dry["weighted_error"] > 0


def test_without_calibration_nothing_is_weighted(place: Place, tmp_path: Path) -> None:
    asked = ("compress", place.adapter, "--budget", "30%", "-o", tmp_path / "small.adz", "-f")
    assert run(*asked, "--json").json["weighted_error"] is None
    assert "weighted" not in run(*asked).err
    assert not run("plan", place.adapter, "--budget", "30%", "--json").json["weighted"]
