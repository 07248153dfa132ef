"""Files whose basis lies elsewhere, and errors weighted by activations, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptzip
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.updates import build_basis
from tests.cases.models_on_disk import TEXTS
from tests.cases.models_on_disk import adapter as random_adapter
from tests.cases.models_on_disk import save as save_model
from tests.cases.tiny_peft import llama
from tests.cli.cli_cases import MODULES, load_weights, make_base, refused, run


@pytest.fixture
def fitting_base(base: Path, adapter: Path) -> Path:
    """A base model whose strongest directions are those of the adapter's updates."""
    weights = load_weights(base)
    for name, module in adaptzip.read(adapter).modules.items():
        weights[f"{name}.weight"] = 100 * module.delta() + 0.01 * weights[f"{name}.weight"]
    save_file(weights, base / "model.safetensors")
    return base


@pytest.fixture
def on_base(adapter: Path, fitting_base: Path) -> Path:
    """Cores between directions of the base weights."""
    path = adapter.with_name("cores.adz")
    adaptzip.compress(adapter, path, to="lora-xs", base=fitting_base, max_error=0.05)
    return path


@pytest.fixture
def team(adapter: Path) -> Path:
    path = adapter.with_name("team.basis")
    write_basis(build_basis([adaptzip.read(adapter)], None), path)
    return path


@pytest.fixture
def on_basis(adapter: Path, team: Path) -> Path:
    """Cores in a basis that lies in a file of its own."""
    path = adapter.with_name("member.adz")
    adaptzip.compress(adapter, path, to="lora-sb", basis=team, max_error=0.05)
    return path


def test_the_reference_in_a_basis_of_its_own(adapter: Path, team: Path) -> None:
    small, plain, out = (adapter.with_name(name) for name in ("small.adz", "plain.adz", "out"))
    told = run("compress", adapter, "--to", "svd", "--basis", team, "--max-error", "0.05", "-o", small)
    assert (told.code, "a basis of its own" in told.err) == (0, True)
    assert run("compress", adapter, "--to", "svd", "--max-error", "0.05", "-o", plain).code == 0
    assert small.stat().st_size < plain.stat().st_size
    assert "sides 2" in run("inspect", small).out
    refused(run("export", small, "-o", out), 3, f"{small}: ", "hint: add --basis FILE")
    assert run("export", small, "-o", out, "--basis", team, "-q").code == 0
    assert run("diff", adapter, out, "--max-error", "0.051").code == 0
    for sides, code in (("1", 0), ("3", 2)):
        words = ("--basis", team, "--max-error", "0.05", "-s", f"sides={sides}", "-o", small, "--force")
        assert run("compress", adapter, *words).code == code
    assert "sides 1" in run("inspect", small).out


def test_a_basis_of_the_base_weights(on_base: Path, adapter: Path, fitting_base: Path) -> None:
    out = adapter.with_name("out")
    for words in (
        ("export", on_base, "-o", out),
        ("verify", on_base),
        ("diff", adapter, on_base),
    ):
        refused(run(*words), 3, f"{on_base}: ", "no base model was given", "hint: add --base DIR")
    assert not out.exists()
    assert run("export", on_base, "-o", out, "--base", fitting_base, "-q").code == 0
    assert run("diff", adapter, out, "--max-error", "0.051").code == 0
    assert run("diff", adapter, on_base, "--base", fitting_base, "--max-error", "0.051").code == 0
    checked = run("verify", on_base, "--against", adapter, "--base", fitting_base, "--json").json
    assert checked["passed"]
    assert 0 < checked["measured_error"] <= 0.05
    merged = adapter.with_name("merged")
    assert run("merge", on_base, "--base", fitting_base, "-o", merged, "-q").code == 0
    factors = adaptzip.read(on_base, base=fitting_base).modules[MODULES[0]]
    before = load_weights(fitting_base)[f"{MODULES[0]}.weight"]
    torch.testing.assert_close(load_weights(merged)[f"{MODULES[0]}.weight"], before + factors.delta())


def test_another_base_is_refused(on_base: Path, adapter: Path) -> None:
    other = make_base(adapter.with_name("other-base"))
    refused(run("verify", on_base, "--base", other), 3, "is another base model or revision")


def test_a_basis_in_a_file(on_basis: Path, adapter: Path, team: Path, base: Path) -> None:
    out, merged = adapter.with_name("out"), adapter.with_name("merged")
    for words in (
        ("export", on_basis, "-o", out),
        ("verify", on_basis),
        ("diff", adapter, on_basis),
        ("merge", on_basis, "--base", base, "-o", merged),
    ):
        refused(run(*words), 3, f"{on_basis}: ", "hint: add --basis FILE")
        assert run(*words, "--basis", team, "-q").code == 0
    assert (
        load_file(out / "adapter_model.safetensors").keys() == load_file(adapter / "adapter_model.safetensors").keys()
    )
    changed = load_weights(merged)[f"{MODULES[0]}.weight"] - load_weights(base)[f"{MODULES[0]}.weight"]
    expected = adaptzip.read(on_basis, basis=team).modules[MODULES[0]].delta()
    torch.testing.assert_close(changed, expected, atol=1e-6, rtol=1e-4)


def test_inspect_tells_where_the_basis_is(on_base: Path, on_basis: Path, team: Path) -> None:
    """Without it, and without decoding anything."""
    shown = run("inspect", on_base).out
    assert "recomputed from the weights of somebody/some-base (--base DIR)" in shown
    values = run("inspect", on_basis, "--json").json
    assert values["basis"]["source"] == "file"
    assert values["basis"]["hash"] == run("basis", "show", team, "--json").json["hash"]
    assert values["parts"]["basis"] == 0
    assert f"hash {values['basis']['hash'][:8]}..." in run("inspect", on_basis).out


def test_inspect_tells_an_embedded_basis_and_what_is_shared(adapter: Path) -> None:
    own, banked = adapter.with_name("own.adz"), adapter.with_name("banked.adz")
    adaptzip.compress(adapter, own, to="lora-sb", max_error=0.1)
    values = run("inspect", own, "--json").json
    assert values["basis"]["source"] == "embedded"
    assert 0 < values["parts"]["basis"] < values["bytes"]
    assert "in the file itself, 4 directions at most" in run("inspect", own).out
    settings: dict[str, Any] = {"rank": 2, "length": 16, "vectors": 9, "top_k": 1}
    adaptzip.compress(adapter, banked, to="vblora", max_error=0.99, **settings)
    shown = run("inspect", banked).out
    for setting in ("length 16", "rank 2", "top_k 1", "vectors 9"):
        assert setting in shown.splitlines()[4]
    assert run("inspect", banked, "--json").json["parts"]["shared"] > 0
    assert "\nshared  " in shown


def test_errors_weighted_by_activations(tmp_path: Path) -> None:
    base = save_model(llama, tmp_path / "base")
    source = random_adapter(llama(), "q_proj", "down_proj")
    adaptzip.export(source, tmp_path / "a")
    adaptzip.compress(tmp_path / "a", tmp_path / "a.adz", max_error=0.3)
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    weighing = ("--base", base, "--calibration", texts)
    found = run("diff", tmp_path / "a", tmp_path / "a.adz", *weighing, "--json").json
    assert 0 < found["weighted_error"] < 1
    assert found["weighted_error"] != found["relative_error"]
    checked = run("verify", tmp_path / "a.adz", "--against", tmp_path / "a", *weighing, "--json").json
    assert checked["weighted_error"] == found["weighted_error"]
    assert checked["passed"]
    assert "weighted by activations" in run("diff", tmp_path / "a", tmp_path / "a.adz", *weighing).out
    said = run("verify", tmp_path / "a.adz", "--against", tmp_path / "a", *weighing).out
    assert "weighted by activations, the error is" in said
    assert run("diff", tmp_path / "a", tmp_path / "a.adz", "--json").json["weighted_error"] is None
    refused(run("diff", tmp_path / "a", tmp_path / "a.adz", "--calibration", texts), 2, "add --base DIR")
    refused(run("verify", tmp_path / "a.adz", *weighing), 2, "add --against SRC")
