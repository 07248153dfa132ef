"""What is wrong with a method of another package is said in one line, and nothing wrong is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

import adaptzip
from adaptzip import methods
from adaptzip.cli.app import main
from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.method import AnyMethod
from adaptzip.errors import UsageError
from adaptzip.restoring.exporting import export
from adaptzip.testing.adapters import adapter
from tests.cases.plugging import installed
from tests.cases.sixth_method import METHOD, Config, Sixth, SixthFit

SOURCE = adapter({"a": (40, 24, 6), "b": (24, 40, 4)}, seed=4)


@dataclass
class Soft:
    """Options that are no frozen dataclass."""

    keep: float = 1.0


@dataclass(frozen=True)
class Bare:
    """Options without a default."""

    keep: float


class Losing(Sixth):
    """Fits all modules but one."""

    def fit(self, *given: Any) -> dict[str, SixthFit]:
        return dict(list(super().fit(*given).items())[1:])


class Longer(Sixth):
    """Says that it stores less than it does."""

    def layout(self, site: Site, rank: int, config: Config) -> tuple[TensorSpec, ...]:
        return (TensorSpec("rows", rank, site.out),)


class Nothing(Sixth):
    """Has nothing to code."""

    def target(self, fitted: SixthFit, role: str, rank: int, done: Mapping[str, Tensor]) -> Any:
        return None


class Halving(Sixth):
    """Takes half a rank."""

    def rank(self, *given: Any) -> Any:
        return super().rank(*given) / 2


class Endless(Sixth):
    """Has no end of ranks."""

    def rank(self, *given: Any) -> int:
        return 10**6


class Stumbling(Sixth):
    """Raises."""

    def reconstruct(self, *given: Any) -> Any:
        raise RuntimeError("two\nlines")


def sixth(**differently: Any) -> Any:
    return type("Sixth", (Sixth,), differently)()


@contextmanager
def plugged(made: object, folder: Path, name: str = "sixth") -> Iterator[None]:
    module = ModuleType("tests.a_strangers_package")
    module.METHOD = made  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, module.__name__, module)
        with installed(folder, {name: f"{module.__name__}:METHOD"}):
            yield


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("METHOD", "is of type str, expected a Method or FunctionMethod"),
        (Sixth, "is the class Sixth, expected an object of it"),
        (sixth(name="seventh"), "calls itself 'seventh', expected the entry point's name"),
        (sixth(version="one"), "has the version 'one', expected a whole number from 1"),
        (sixth(summary=None), "has no summary"),
        (sixth(roles="rows"), "has the roles 'rows', expected a tuple of names"),
        (sixth(config_type=int), "has the options <class 'int'>, expected a frozen dataclass"),
        (sixth(config_type=Soft), "has options Soft that are no frozen dataclass"),
        (sixth(config_type=Bare), "has the option 'keep' without a default"),
    ],
)
def test_what_no_method_says_of_itself_is_refused(made: object, said: str, tmp_path: Path) -> None:
    with plugged(made, tmp_path), pytest.raises(UsageError) as error:
        methods.load("sixth")
    assert str(error.value).startswith("method 'sixth', which the package toys_of_")
    assert said in str(error.value)


def test_one_that_cannot_be_imported_and_one_of_an_odd_name_are_refused(tmp_path: Path) -> None:
    with (
        installed(tmp_path / "gone", {"gone": "no.such.module:METHOD"}),
        pytest.raises(UsageError, match="cannot be loaded: ModuleNotFoundError"),
    ):
        methods.load("gone")
    with plugged(sixth(name="a/b"), tmp_path / "odd", "a/b"), pytest.raises(UsageError, match="lower case letters"):
        methods.load("a/b")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (Losing(), "method 'sixth': fit has no result for every module"),
        (Longer(), r"the tensor rows to code is \[\d+, 64\], expected \[\d+, (40|24)\]"),
        (Nothing(), "the tensor rows to code is NoneType"),
        (Halving(), r"method 'sixth': rank is \d+\.\d+ at a step of"),
        (Endless(), "method 'sixth': rank is 1000000 at a step of"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(made: AnyMethod, said: str, tmp_path: Path) -> None:
    with plugged(made, tmp_path / "site"), pytest.raises(UsageError, match=said):
        adaptzip.compress(SOURCE, tmp_path / "x.adz", to="sixth", max_error=0.3)
    assert not (tmp_path / "x.adz").exists()


def test_what_it_raises_is_laid_at_its_door(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = export(SOURCE, tmp_path / "peft").path
    with plugged(Stumbling(), tmp_path / "site"):
        code = main(["compress", str(folder), "--to", "sixth", "-o", str(tmp_path / "x.adz")])
    assert code == 70
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(
        "error: the package toys_of_site, which brings 'sixth' as tests.a_strangers_package:METHOD"
    )
    assert len(told) == 2
    assert not (tmp_path / "x.adz").exists()


def test_the_method_that_they_are_made_of_is_sound(tmp_path: Path) -> None:
    with plugged(METHOD, tmp_path):
        assert methods.load("sixth") is METHOD
