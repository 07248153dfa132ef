"""A method of another package is one file: it gets every command, the coder, the container and exports as it is."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptzip
from adaptzip import methods
from adaptzip.adz.container import writer
from adaptzip.cli.app import main
from adaptzip.errors import RefusedError, UsageError
from adaptzip.models.folder import BaseModel
from adaptzip.testing.adapters import adapter, relative_error, same_factors
from adaptzip.testing.trials import compress, fit
from tests.cases import sixth_method
from tests.cases.any_method import OUTSIDE
from tests.cases.plugging import installed
from tests.cases.tiny_peft import Trained, llama, train

SOURCE = adapter({"a": (40, 24, 6), "b": (24, 40, 4)}, seed=4)


@pytest.fixture
def toys(tmp_path: Path) -> Iterator[None]:
    with installed(tmp_path / "site"):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A tiny Llama's adapter, with its base model saved in the folder "base" beside it."""
    folder = tmp_path_factory.mktemp("trained")
    llama().save_pretrained(folder / "base")
    return train(llama(), folder / "adapter", r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"])


def run(*words: object) -> Any:
    """The JSON that a command prints, after it succeeded."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*map(str, words), "--json"])
    assert code == 0, err.getvalue()
    return json.loads(out.getvalue())


def test_it_is_one_file_that_imports_no_other_method() -> None:
    text = Path(sixth_method.__file__).read_text()
    assert "core.method import" in text
    assert not any(f"methods.{name.replace('-', '_')}" in text for name in methods.names())


@pytest.mark.usefixtures("toys")
def test_it_is_listed_and_described() -> None:
    assert set(OUTSIDE) <= set(methods.names())
    assert "sixth" in [row["name"] for row in run("methods")["methods"]]
    about = run("methods", "sixth")
    assert about["summary"] == sixth_method.METHOD.summary
    assert [(option["name"], option["default"]) for option in about["options"]] == [("keep", 1.0)]


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("name", OUTSIDE)
def test_the_commands_take_it(name: str, trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "x.adz"
    foreseen = run("compress", trained.folder, "--to", name, "--max-error", 0.3, "--dry-run", "-o", file)
    made = run("compress", trained.folder, "--to", name, "--max-error", 0.3, "-o", file)
    assert made["method"] == foreseen["method"] == name
    assert made["bytes"] == file.stat().st_size
    assert foreseen["bytes"] == pytest.approx(made["bytes"], rel=0.3)
    assert name in json.dumps(run("inspect", file))
    run("verify", file, "--against", trained.folder, "--max-error", 0.3)
    assert run("diff", trained.folder, file)["relative_error"] == pytest.approx(made["relative_error"], rel=1e-3)
    run("export", file, "-o", tmp_path / "peft")
    assert relative_error(adaptzip.reconstruct(file), adaptzip.read(tmp_path / "peft")) < 1e-6
    run("merge", file, "--base", trained.folder.parent / "base", "-o", tmp_path / "merged")
    merged, base = BaseModel.open(tmp_path / "merged"), BaseModel.open(trained.folder.parent / "base")
    after = adaptzip.reconstruct(file)
    assert after.modules
    for module, factors in after.modules.items():
        key = f"{module}.weight"
        torch.testing.assert_close(merged.read(key), base.read(key) + factors.delta(), atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("toys")
def test_its_options_reach_it_and_the_file(trained: Trained, tmp_path: Path) -> None:
    run("compress", trained.folder, "--to", "sixth", "-s", "keep=0.5", "-o", tmp_path / "x.adz")
    assert adaptzip.open(tmp_path / "x.adz").config == {"keep": 0.5}
    assert max(m.rank for m in adaptzip.reconstruct(tmp_path / "x.adz").modules.values()) <= 2
    with pytest.raises(UsageError, match="keep 3"):
        compress("sixth", SOURCE, keep=3.0)


@pytest.mark.usefixtures("toys")
def test_auto_and_tables_know_it(trained: Trained, tmp_path: Path) -> None:
    for command in ("plan", "bench"):
        assert "sixth" in json.dumps(run(command, trained.folder, "--budget", "6KB"))


@pytest.mark.usefixtures("toys")
def test_the_best_of_its_candidates_is_kept() -> None:
    best = compress("seventh", SOURCE, max_error=0.2)
    forced = [compress("seventh", SOURCE, max_error=0.2, patterns=count) for count in (2, 4)]
    assert writer.size(best) == min(map(writer.size, forced))
    assert best.config["patterns"] in (2, 4)


@pytest.mark.usefixtures("toys")
def test_what_modules_share_is_stored_once() -> None:
    many = adapter([(20, 16, 4)] * 8)
    fitted = fit("seventh", many, max_error=0.2)
    coded = fitted.code(0.02, fitted.ranks(0.02), list(fitted.profiles))
    assert coded.numbers == 4 * 4 + sum(len(coded.modules) and m.numbers for m in coded.modules.values())
    assert coded.bytes == len(coded.shared.chunk) + sum(len(m.chunk) for m in coded.modules.values())
    compressed = compress("seventh", many, max_error=0.2)
    assert len(compressed.shared) > 0
    assert same_factors(adaptzip.reconstruct(compressed), adaptzip.reconstruct(compressed))


def test_its_files_are_refused_where_it_is_not_installed(tmp_path: Path) -> None:
    with installed(tmp_path / "site"):
        compress("sixth", SOURCE, tmp_path / "x.adz", max_error=0.3)
    with pytest.raises(RefusedError, match="x.adz: the file was made by method 'sixth', which is not installed"):
        adaptzip.reconstruct(tmp_path / "x.adz")


def test_two_methods_of_one_name_are_refused(tmp_path: Path) -> None:
    with (
        installed(tmp_path, {"svd": "tests.cases.sixth_method:METHOD"}),
        pytest.raises(UsageError, match="defined twice"),
    ):
        methods.load("svd")
