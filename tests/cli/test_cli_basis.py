"""`adaptzip basis build` and `adaptzip basis show`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import adaptzip
from adaptzip.bases.artefact import read_basis
from adaptzip.models.texts.example import Example
from tests.cli.cli_cases import MODULES, OUT, RANK, ROOT, WIDTH, make_adapter, make_tensors, refused, run


@pytest.fixture
def team(adapter: Path) -> list[Path]:
    """Three adapters of one base: the first, the first in other factors, and a stranger."""
    tensors = make_tensors()
    gauge, _ = torch.linalg.qr(torch.randn(RANK, RANK, generator=torch.Generator().manual_seed(1)))
    turned = {
        key: gauge @ t if "lora_A" in key else t @ gauge.T if "lora_B" in key else t for key, t in tensors.items()
    }
    stranger = {
        key: torch.randn(t.shape, generator=torch.Generator().manual_seed(i))
        for i, (key, t) in enumerate(tensors.items())
    }
    paths = [adapter]
    for name, files in (("turned", turned), ("stranger", stranger)):
        paths.append(make_adapter(adapter.parent / name))
        save_file(files, paths[-1] / "adapter_model.safetensors")
    return paths


def test_build_says_what_it_captures_and_what_it_wrote(team: list[Path]) -> None:
    out = team[0].parent / "team.basis"
    result = run("basis", "build", *team[:2], "-k", RANK, "--holdout", team[2], "-o", out)
    assert result.code == 0
    rows = result.out.splitlines()
    assert rows[0].split() == ["adapter", "captured", "least", "error", "worst", "module"]
    assert "100.0 %" in rows[1]
    assert "(outside the set)" in rows[3]
    assert result.last.startswith(f"wrote {out}  ")
    assert f"({RANK} directions of {len(MODULES)} modules, updates of 2 adapters)" in result.last
    assert read_basis(out).modules.keys() == set(MODULES)
    for words in (["inspect", out], ["compress", out], ["export", out, "-o", out.with_suffix("")]):
        refused(run(*words), 2, f"{out}: is a basis that adapters share", "adaptzip basis show")


def test_build_json(team: list[Path]) -> None:
    out = team[0].parent / "team.basis"
    values = run("basis", "build", *team[:2], "--holdout", team[2], "-o", out, "--json").json
    assert values["bytes"] == out.stat().st_size
    assert (values["size"], values["modules"], values["dtype"]) == (RANK, len(MODULES), "float32")
    assert values["hash"] == read_basis(out).reference.hash
    assert [entry["adapter"] for entry in values["adapters"]] == [str(path) for path in team[:2]]
    assert all(entry["relative_error"] < 1e-6 for entry in values["adapters"])
    outside = values["holdout"][0]
    assert 0 < outside["captured_energy"] < 0.1
    assert outside["relative_error"] == pytest.approx((1 - outside["captured_energy"]) ** 0.5)
    assert outside["worst_module"] in MODULES


def test_compress_with_a_shared_basis_and_back(team: list[Path]) -> None:
    basis, archive = team[0].parent / "team.basis", team[0].parent / "core.adz"
    assert run("basis", "build", *team[:2], "-o", basis, "-q").out == ""
    made = run("compress", team[1], "--to", "lora-sb", "--basis", basis, "-o", archive, "--json")
    plain = run("compress", team[1], "-o", archive.with_name("plain.adz"), "--json")
    assert made.json["module_bytes"] < plain.json["module_bytes"] / 4
    assert made.json["captured_energy"] == pytest.approx(1)
    assert (made.json["basis_bytes"], plain.json["basis_bytes"]) == (basis.stat().st_size, None)
    told = run("compress", team[1], "--to", "lora-sb", "--basis", basis, "-o", archive, "-f").err
    assert "not counted: the basis" in told
    restored = archive.with_name("restored")
    assert run("export", archive, "--basis", basis, "-o", restored).code == 0
    assert run("diff", team[0], restored, "--max-error", "0.11").code == 0
    assert run("export", archive, "-o", restored, "-f").code == 3


def test_float16_halves_the_file(team: list[Path]) -> None:
    sizes = []
    for dtype in ("float32", "float16"):
        out = team[0].parent / f"{dtype}.basis"
        values = run("basis", "build", team[0], "-o", out, "--dtype", dtype, "--json").json
        assert values["adapters"][0]["relative_error"] < 5e-4
        sizes.append(values["bytes"])
    assert sizes[1] < 0.6 * sizes[0]


def test_show(team: list[Path]) -> None:
    out = team[0].parent / "team.basis"
    run("basis", "build", *team[:2], "-o", out, "-q")
    result = run("basis", "show", out, team[2])
    assert result.code == 0
    assert "updates of 2 adapters" in result.out
    assert read_basis(out).reference.hash in result.out
    assert str(team[2]) in result.out
    values = run("basis", "show", out, "--json").json
    assert values["numbers"] == len(MODULES) * RANK * (OUT + WIDTH)
    assert values["adapters"] == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("basis", 2, "Usage: adaptzip basis"),
        ("basis build", 2, "no adapter was given"),
        ("basis build {adapter} -o {adapter}", 2, "would replace its source"),
        ("basis build {adapter} -k 0", 2, "greater than or equal to 1"),
        ("basis build {adapter} --calibration {adapter}", 2, "--calibration was given without --gradient"),
        ("basis build {adapter} --gradient", 2, "--gradient takes no adapters"),
        ("basis build --gradient -k 4", 2, "without all of --base"),
        ("basis build {adapter}/nothing", 2, "no such file or folder"),
        ("basis show {adapter}/adapter_model.safetensors", 2, "is no basis"),
        ("basis show {adapter}/nothing.basis", 2, "cannot be read"),
    ],
)
def test_what_makes_no_sense(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, words: str, code: int, message: str
) -> None:
    monkeypatch.chdir(adapter.parent)
    result = run(*words.format(adapter=adapter).split())
    assert result.code == code
    assert message in result.err
    assert not (adapter.parent / "shared.basis").exists()


def test_an_existing_basis_is_kept(adapter: Path) -> None:
    out = adapter.parent / "team.basis"
    out.write_bytes(b"mine")
    assert run("basis", "build", adapter, "-o", out).code == 2
    assert out.read_bytes() == b"mine"
    assert run("basis", "build", adapter, "-o", out, "-f").code == 0


def test_a_basis_from_gradients(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients themselves are tested with the calibration; here, what becomes of them."""
    from adaptzip.fitting.calibration import gradients

    texts = adapter.parent / "texts.jsonl"
    texts.write_text('{"text": "one"}\n{"text": "two"}\n')
    asked: dict[str, object] = {}

    def module_gradients(base: Path, given: Any, modules: Any, *, tokeniser: object) -> dict[str, torch.Tensor]:
        asked.update(base=base, texts=tuple(given), modules=sorted(modules), own=tokeniser)
        return {name: torch.randn(OUT, WIDTH, generator=torch.Generator().manual_seed(0)) for name in MODULES}

    monkeypatch.setattr(gradients, "module_gradients", module_gradients)
    out, base = adapter.parent / "sb.basis", adapter.parent / "base"
    words = ["--gradient", "--base", base, "--calibration", texts, "--modules-of", adapter]
    values = run("basis", "build", *words, "-k", 5, "-o", out, "--json").json
    assert (values["size"], values["description"]) == (5, "gradient over 2 texts")
    texts_read = (Example("one"), Example("two"))
    assert asked == {"base": base, "texts": texts_read, "modules": sorted(MODULES), "own": None}
    made = adaptzip.compress(adapter, to="lora-sb", basis=out, min_energy=0.0, max_error=0.999)
    assert made.basis is not None
    assert made.basis.hash == values["hash"]


@pytest.mark.parametrize(
    ("section", "words"),
    [("basis build", "basis build {adapter} -o {out}"), ("basis show", "basis show {out} {adapter}")],
)
def test_every_json_key_is_explained(adapter: Path, section: str, words: str) -> None:
    out = adapter.parent / "x.basis"
    run("basis", "build", adapter, "-o", out, "-q")
    page = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    first_cells = (line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    documented = {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)}
    given = [word.format(adapter=adapter, out=out) for word in words.split()]
    assert run(*given, "--json", *(["-f"] if section == "basis build" else [])).json.keys() == documented
