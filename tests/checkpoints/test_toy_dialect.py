"""A dialect of another package is one file: every command that reads or writes adapters takes it as it is."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptzip
from adaptzip.checkpoints import Checkpoint, Files, NativeWriter, Signature, WriteOptions, Writer, dialects
from adaptzip.cli.app import main
from adaptzip.core.adapter import Adapter
from adaptzip.core.effects import Effect, Effects
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError, RefusedError, UsageError
from adaptzip.models.folder import BaseModel
from tests.cases import toy_dialect
from tests.cases.plugging import TOY_DIALECT, installed_dialects
from tests.cases.tiny_peft import Trained, bert, train

PLACE = TOY_DIALECT["toy"]


class Twin(toy_dialect.Toy):
    """As sure of a toy's files as the toy itself."""

    name = "twin"


class Deaf(toy_dialect.Toy):
    """It knows its files, and is never sure of them."""

    name = "deaf"
    signature = (Signature("^deaf/", "a Deaf"),)

    def sniff(self, source: Checkpoint) -> float:
        return 0.0


class Press(Writer):
    """An export target that nothing reads: dense updates."""

    name = "press"
    title = "Press"
    files = Files(written=("pressed.safetensors",))

    def write(self, adapter: Adapter, folder: Path, options: WriteOptions) -> None:
        save_file({name: m.delta() for name, m in adapter.modules.items()}, folder / "pressed.safetensors")


class Shy(toy_dialect.Toy):
    """Its extras do nothing."""

    name = "shy"

    def effects(self, adapter: Adapter) -> Effects:
        return Effects({key: Effect("ignore", key) for key in adapter.extras})


TWIN, DEAF, PRESS, SHY = Twin(), Deaf(), Press(), Shy()


def boom(*_: object) -> Any:
    raise KeyError("two\nlines")


def toy(**differently: Any) -> toy_dialect.Toy:
    """The toy with something else in place of what it has."""
    made: toy_dialect.Toy = type("Toy", (toy_dialect.Toy,), differently)()
    return made


def read_otherwise(**fields: Any) -> Callable[[toy_dialect.Toy, Checkpoint], Adapter]:
    return lambda self, source: replace(toy_dialect.DIALECT.read(source), **fields)


def write_more(self: toy_dialect.Toy, adapter: Adapter, folder: Path, options: WriteOptions) -> None:
    toy_dialect.DIALECT.write(adapter, folder, options)
    (folder / "notes.txt").touch()


MISSHAPEN = {
    "title": (toy(title=None), "has the title None"),
    "no files": (toy(files=None), "has files of type NoneType"),
    "one name": (toy(files=Files(weights="toy.safetensors")), "names of files that are no tuple"),  # type: ignore[arg-type]
    "outside": (toy(files=Files(("../toy.safetensors",))), "the file '../toy.safetensors', expected a name without"),
    "greedy": (toy(files=Files(written=("*",))), "says that it writes files of any name"),
    "no tuple": (toy(signature=Signature("^toy/", "a Toy")), "a signature that is no tuple"),
    "no regex": (toy(signature=(Signature("(", "a Toy"),)), "the signature '(', which is no regular expression"),
    "a class": (toy_dialect.Toy, "is the class Toy, expected an object of it"),
}
ASTRAY = {
    "surest of all": (toy(sniff=lambda *_: 2.0), "is 2.0 sure of "),
    "sure of nothing": (toy(sniff=lambda *_: float("nan")), "is nan sure of "),
    "speechless": (toy(sniff=lambda *_: None), "is None sure of "),
    "empty-handed": (toy(read=lambda *_: None), "a NoneType, expected an Adapter"),
    "listing": (toy(read=read_otherwise(modules=[1])), "an adapter whose modules or extras are no mapping"),
    "under another name": (toy(read=read_otherwise(meta=Meta("peft"))), "'peft', expected its own name"),
    "silent": (toy(effects=lambda *_: None), "tells effects of type NoneType"),
    "forgetful": (toy(effects=lambda *_: Effects()), "does not tell what the extra base_model.model."),
}
RAISING = {name: toy(**{name: boom}) for name in ("sniff", "read", "effects", "overlooked", "write")}


@contextlib.contextmanager
def plugged(made: object, folder: Path) -> Iterator[None]:
    module = ModuleType("tests.a_strangers_package")
    module.DIALECT = made  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        with installed_dialects(folder, {"toy": f"{module.__name__}:DIALECT"}):
            yield


@pytest.fixture
def _toy(tmp_path: Path) -> Iterator[None]:
    with installed_dialects(tmp_path / "site"):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A tiny BERT's adapter with its head; its base model lies in the folder "base" beside it."""
    folder = tmp_path_factory.mktemp("trained")
    bert().save_pretrained(folder / "base")
    return train(bert(), folder / "adapter", r=4, lora_alpha=6, target_modules=["query"], task_type="SEQ_CLS")


def run(*words: object) -> Any:
    """The JSON that a command prints, after it succeeded."""
    code, out, err = told(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def told(*words: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*map(str, words)])
    return code, out.getvalue(), err.getvalue()


def toy_of(trained: Trained, folder: Path) -> Path:
    run("export", trained.folder, "--as", "toy", "-o", folder)
    return folder


def test_it_is_one_file_that_imports_no_other_dialect() -> None:
    text = Path(toy_dialect.__file__).read_text()
    assert "from adaptzip.checkpoints import" in text
    assert "from adaptzip.checkpoints." not in text


@pytest.mark.usefixtures("_toy")
def test_the_commands_take_it(trained: Trained, tmp_path: Path) -> None:
    toy, file, base = toy_of(trained, tmp_path / "toy"), tmp_path / "x.adz", trained.folder.parent / "base"
    assert {path.name for path in toy.iterdir()} == set(toy_dialect.DIALECT.files.written)
    assert run("inspect", toy)["dialect"] == "toy"
    made = run("compress", toy, "--max-error", 0.3, "-o", file)
    assert run("inspect", file)["dialect"] == "toy"
    run("verify", file, "--against", toy, "--max-error", 0.3)
    assert run("diff", toy, file)["relative_error"] == pytest.approx(made["relative_error"], rel=1e-3)
    assert run("diff", trained.folder, toy)["relative_error"] == 0
    assert run("export", file, "--as", "toy", "-o", tmp_path / "back")["dialect"] == "toy"
    assert adaptzip.read(tmp_path / "back").extras.keys() == adaptzip.read(trained.folder).extras.keys()
    run("merge", toy, "--base", base, "-o", tmp_path / "merged")
    run("merge", trained.folder, "--base", base, "-o", tmp_path / "expected")
    assert same_models(tmp_path / "merged", tmp_path / "expected")


def test_a_file_of_it_goes_on_where_it_is_not_installed(trained: Trained, tmp_path: Path) -> None:
    base = trained.folder.parent / "base"
    with installed_dialects(tmp_path / "site"):
        adapter = adaptzip.read(toy_of(trained, tmp_path / "toy"))
        adaptzip.compress(adapter, tmp_path / "x.adz", lossless=True)
    back = adaptzip.reconstruct(tmp_path / "x.adz")
    assert back.meta.dialect == "toy"
    assert back.resolved == adapter.resolved
    adaptzip.merge(back, base, tmp_path / "merged")
    adaptzip.merge(trained.folder, base, tmp_path / "expected")
    assert same_models(tmp_path / "merged", tmp_path / "expected")


def same_models(one: Path, other: Path) -> bool:
    ours, theirs = BaseModel.open(one), BaseModel.open(other)
    configs = [(folder / "config.json").read_bytes() for folder in (one, other)]
    same = all(torch.equal(ours.read(name), theirs.read(name)) for name in theirs.tensors)
    return same and set(ours.tensors) == set(theirs.tensors) and configs[0] == configs[1]


@pytest.mark.usefixtures("_toy")
def test_exports_are_to_what_can_write(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        adaptzip.export(trained.folder, tmp_path / "out", as_="nothing")
    known = [name for name, found in dialects().items() if isinstance(found, Writer | NativeWriter)]
    assert error.value.hint == f"known: {', '.join(known)}"


@pytest.mark.usefixtures("_toy")
def test_its_signature_names_what_it_cannot_read(trained: Trained, tmp_path: Path) -> None:
    toy = toy_of(trained, tmp_path / "toy")
    (toy / "toy.json").unlink()
    with pytest.raises(CheckpointError, match="toy.json with the strengths is missing"):
        adaptzip.read(toy)
    save_file({"deaf/x": torch.ones(2)}, tmp_path / "deaf.safetensors")
    with (
        installed_dialects(tmp_path / "site-2", {"deaf": f"{__name__}:DEAF"}),
        pytest.raises(RefusedError, match="looks like a Deaf"),
    ):
        adaptzip.read(tmp_path / "deaf.safetensors")


@pytest.mark.usefixtures("_toy")
def test_two_that_are_equally_sure_are_refused(trained: Trained, tmp_path: Path) -> None:
    toy = toy_of(trained, tmp_path / "toy")
    with installed_dialects(tmp_path / "twin", {"twin": f"{__name__}:TWIN"}):
        code, _, err = told("inspect", toy)
        named = told("inspect", toy, "--from", "toy")
        file = told("inspect", toy / "toy.safetensors")
    assert code == file[0] == 2
    assert "toy.safetensors: could be toy or twin, expected exactly one checkpoint dialect" in err
    assert "hint: name the one that it is with --from, as in --from toy" in err
    assert file[2] == err
    assert named[0] == 0


@pytest.mark.parametrize(
    ("points", "match"),
    [
        ({"peft": PLACE}, "dialect 'peft' is defined twice: by adaptzip and by tests.cases.toy_dialect:DIALECT"),
        (
            {"gone": "no.such.module:X"},
            "'gone', which the package toys_of_site brings as no.such.module:X, cannot be",
        ),
        ({"toy": f"{__name__}:PLACE"}, "is of type str, expected a Dialect"),
        ({"other": PLACE}, "calls itself 'toy', expected the entry point's name"),
    ],
)
def test_a_broken_plug_in_is_one_line(points: dict[str, str], match: str, trained: Trained, tmp_path: Path) -> None:
    with installed_dialects(tmp_path / "site", points):
        code, _, err = told("inspect", trained.folder)
        with pytest.raises(UsageError, match=match):
            adaptzip.read(trained.folder)
    assert code == 2
    assert len([line for line in err.splitlines() if line.startswith("error")]) == 1


def test_two_packages_that_bring_one_name_are_refused(trained: Trained, tmp_path: Path) -> None:
    with (
        installed_dialects(tmp_path / "one"),
        installed_dialects(tmp_path / "two", {"toy": f"{__name__}:TWIN"}),
        pytest.raises(UsageError, match="dialect 'toy' is defined twice: by "),
    ):
        adaptzip.read(trained.folder)


@pytest.mark.parametrize("kind", MISSHAPEN)
def test_what_no_dialect_says_of_itself_is_refused(kind: str, trained: Trained, tmp_path: Path) -> None:
    made, said = MISSHAPEN[kind]
    with plugged(made, tmp_path / "site"):
        code, _, err = told("inspect", trained.folder)
    assert code == 2
    assert "dialect 'toy', which the package toys_of_site brings as tests.a_strangers_package:DIALECT," in err
    assert said in err


@pytest.mark.parametrize("kind", ASTRAY)
def test_what_no_dialect_gives_is_refused(kind: str, trained: Trained, tmp_path: Path) -> None:
    with installed_dialects(tmp_path / "site"):
        own = toy_of(trained, tmp_path / "toy")
    made, said = ASTRAY[kind]
    with plugged(made, tmp_path / "other"):
        code, _, err = told("inspect", own)
    assert code == 2
    assert err.startswith("error: dialect 'toy' of ")
    assert said in err


@pytest.mark.parametrize("hook", RAISING)
def test_what_a_dialect_raises_is_laid_at_its_door(hook: str, trained: Trained, tmp_path: Path) -> None:
    with plugged(RAISING[hook], tmp_path / "site"):
        code, _, err = told("export", trained.folder, "--as", "toy", "-o", tmp_path / "out")
    assert code == 70
    assert err.startswith("error: the package toys_of_site, which brings 'toy' as ")
    assert len(err.splitlines()) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("write", "said"), [(write_more, "wrote notes.txt, which is none"), (lambda *_: None, "wrote no file")]
)
def test_files_that_it_does_not_name_and_none_at_all_are_refused(
    write: Any, said: str, trained: Trained, tmp_path: Path
) -> None:
    with plugged(toy(write=write), tmp_path / "site"):
        code, _, err = told("export", trained.folder, "--as", "toy", "-o", tmp_path / "out")
    assert code == 1
    assert f"the dialect 'toy' {said}" in err
    assert not (tmp_path / "out").exists()


def test_a_pattern_of_files_means_none_in_folders() -> None:
    files = Files(written=("part-*.safetensors",))
    assert files.owns("part-1.safetensors")
    assert not files.owns("part-of/something-else.safetensors")


@pytest.mark.usefixtures("_toy")
def test_an_export_target_alone_is_one_class(trained: Trained, tmp_path: Path) -> None:
    """It is not read back, as nothing here reads it."""
    with installed_dialects(tmp_path / "press", {"press": f"{__name__}:PRESS"}):
        report = adaptzip.export(trained.folder, tmp_path / "out", as_="press")
    assert report.files == ("pressed.safetensors",)
    assert load_file(tmp_path / "out" / "pressed.safetensors").keys() == adaptzip.read(trained.folder).modules.keys()


@pytest.mark.usefixtures("_toy")
def test_effects_that_a_dialect_tells_are_those_that_merging_goes_by(trained: Trained, tmp_path: Path) -> None:
    base = trained.folder.parent / "base"
    headless = replace(adaptzip.read(trained.folder), meta=adaptzip.read(toy_of(trained, tmp_path / "toy")).meta)
    with installed_dialects(tmp_path / "shy", {"shy": f"{__name__}:SHY"}):
        report = adaptzip.merge(replace(headless, meta=replace(headless.meta, dialect="shy")), base, tmp_path / "out")
    assert report.extras == 0
    assert any("did nothing" in line for line in report.warnings)
