"""`adaptzip bank build` and `adaptzip bank show`, and the commands that take a bank."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

import adaptzip
from adaptzip.bases.bank_file import read_bank
from tests.cli.cli_cases import MODULES, RANK, make_adapter, make_tensors, refused, run

SIZES = ("--vectors", 60, "--length", 4, "--top-k", 2, "--rank", RANK)


@pytest.fixture
def team(adapter: Path) -> list[Path]:
    """Three adapters of one base."""
    paths = [adapter]
    for seed in (1, 2):
        paths.append(make_adapter(adapter.parent / f"other{seed}"))
        save_file(make_tensors(seed), paths[-1] / "adapter_model.safetensors")
    return paths


def test_build_says_what_it_reaches_and_what_it_wrote(team: list[Path]) -> None:
    out = team[0].parent / "team.bank"
    result = run("bank", "build", *team[:2], *SIZES, "--holdout", team[2], "-o", out)
    assert result.code == 0
    rows = result.out.splitlines()
    assert rows[0].split() == ["adapter", "captured", "least", "error", "worst", "module"]
    assert "(outside the set)" in rows[3]
    assert result.last.startswith(f"wrote {out}  ")
    assert "(60 vectors of 4, updates of 2 adapters)" in result.last
    for words in (["inspect", out], ["compress", out], ["export", out, "-o", out.with_suffix("")]):
        refused(run(*words), 2, f"{out}: is a bank that adapters share", "adaptzip bank show")
    refused(run("bank", "build", *team[:2], *SIZES, "-o", out), 2, "exists already")


def test_build_json_and_show_json(team: list[Path]) -> None:
    out = team[0].parent / "team.bank"
    built = run("bank", "build", *team[:2], *SIZES, "--holdout", team[2], "-o", out, "--json").json
    assert built["bytes"] == out.stat().st_size
    assert (built["vectors"], built["length"], built["top_k"], built["rank"]) == (60, 4, 2, RANK)
    assert built["hash"] == read_bank(out).reference.hash
    assert [entry["adapter"] for entry in built["adapters"]] == [str(path) for path in team[:2]]
    shown = run("bank", "show", out, team[0], team[2], "--json").json
    assert shown["adapters"] == [built["adapters"][0], built["holdout"][0]]
    assert shown["numbers"] == 240
    entry = shown["adapters"][0]
    assert entry["captured_energy"] == pytest.approx(1 - entry["relative_error"] ** 2)
    assert entry["worst_module"] in MODULES
    assert entry["worst_captured"] < entry["captured_energy"]
    made = adaptzip.compress(team[0], to="vblora", basis=out, max_error=entry["relative_error"] * 1.0001)
    assert made.provenance.relative_error == pytest.approx(entry["relative_error"], rel=1e-3)
    plain = run("bank", "show", out).out
    assert "updates of 2 adapters" in plain
    assert built["hash"] in plain


def test_commands_with_a_bank(team: list[Path]) -> None:
    folder = team[0].parent
    bank, archive, restored = folder / "team.bank", folder / "x.adz", folder / "restored"
    run("bank", "build", *team, *SIZES, "-o", bank, "-q")
    with_bank = ("--to", "vblora", "--basis", bank)
    made = run("compress", team[1], *with_bank, "-o", archive, "--json")
    assert made.code == 0
    assert made.json["basis_bytes"] == bank.stat().st_size
    told = run("compress", team[1], *with_bank, "-o", archive, "-f").err
    assert "not counted: the basis" in told
    inspected = run("inspect", archive)
    assert "a bank of its own (--basis FILE), updates of 3 adapters, 60 vectors, hash" in inspected.out
    assert run("inspect", archive, "--json").json["basis"]["source"] == "bank"
    assert run("verify", archive, "--against", team[1], "--basis", bank).code == 0
    assert run("diff", archive, team[1], "--basis", bank, "--max-error", "0.9").code == 0
    assert run("export", archive, "--basis", bank, "-o", restored).code == 0
    refused(run("export", archive, "-o", restored, "-f"), 3, "was not given", "--basis FILE")
    refused(run("verify", archive), 3, "coded with a bank")
    refused(run("compress", team[0], *with_bank, "--max-error", "1e-4", "-o", archive, "-f"), 1, "leave at least")
    assert run("compress", team[1], *with_bank, "--embed-basis", "-o", archive, "-f").code == 0
    assert run("export", archive, "-o", restored, "-f").code == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("bank", 2, "Usage: adaptzip bank"),
        ("bank build", 2, "no adapter was given"),
        ("bank build {adapter} -o {adapter}", 2, "would replace its source"),
        ("bank build {adapter} --vectors 0", 2, "greater than or equal to 1"),
        ("bank build {adapter} --vectors 1", 2, "a bank of 1 vectors was asked for"),
        ("bank show {adapter}", 2, "cannot be read"),
        ("bank build nowhere", 2, "nowhere"),
    ],
)
def test_bad_usage(words: str, code: int, message: str, adapter: Path) -> None:
    found = run(*words.format(adapter=adapter).split())
    assert found.code == code
    assert message in found.err
