"""The mutants that are made of a source, and those that are excused."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="cosmic-ray is not installed")

from checks.mutants import tested
from checks.mutants.excused import Excuse, excuses, reason_for
from checks.mutants.making import Mutant, draw, meaning

ROOT = Path(__file__).parent.parent
SOURCE = '''\
"""A file of 3 lines."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from x import y

Number = int | float


def half(number: int | None = None) -> int | None:
    """Half of at most 100."""
    if number is None:
        raise ValueError(f"{1 + 1} numbers")
    return number // 2
'''


def drawn(seed: int = 0) -> list[Mutant]:
    return list(draw({"a.py": SOURCE}, seed))


def test_mutants_are_of_what_a_file_does() -> None:
    found = drawn()
    assert {mutant.before for mutant in found} == {"if number is None:", "return number // 2"}
    assert ("return number // 2", "return number // 3") in {(m.before, m.after.replace("  ", " ")) for m in found}
    assert len({meaning(mutant.source) for mutant in found}) == len(found)
    assert all(mutant.line in (13, 15) for mutant in found)


def test_a_seed_decides_the_order_and_nothing_else() -> None:
    first, again, other = (drawn(seed) for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(m.source for m in first) == sorted(m.source for m in other)


def test_sources_mean_the_same_whatever_they_say() -> None:
    assert meaning("x: int = 1") == meaning("x: str = 1") != meaning("x: int = 2")
    assert meaning("def f(a, *, b): pass") == meaning("def f(a, /, *, b): pass")
    assert meaning("def f(a, *, b=1): pass") == meaning("def f(a, /, b=1): pass") != meaning("def f(a, /, b=2): pass")
    assert meaning("raise E(f'{a}')") == meaning("raise E('b', hint=c)") != meaning("raise F('b')")
    assert meaning("warnings.warn('a', W)") == meaning("warnings.warn('b', W)")
    assert meaning("f(1") is None


def test_tests_are_those_of_the_statement_own_folder_first() -> None:
    mutant = Mutant("adaptzip/core/a.py", 15, "", "", "")
    known = [
        tested.Tested("tests/adz/test_b.py::quick", 0.1, {"adaptzip/core/a.py": [15]}),
        tested.Tested("tests/core/test_a.py::slow", 2.0, {"adaptzip/core/a.py": [13, 15]}),
        tested.Tested("tests/core/test_a.py::other", 0.1, {"adaptzip/core/a.py": [13]}),
        tested.Tested("tests/core/test_a.py::slowest", 9.0, {"adaptzip/core/a.py": [15]}),
    ]
    found = [test.name.partition("::")[2] for test in tested.tests_for(mutant, SOURCE, known, 3.0)]
    assert found == ["slow", "quick"]


def test_excuses_hold_for_a_line_or_for_one_change_of_it() -> None:
    known = [Excuse("a.py", "x = 1", "", "any"), Excuse("a.py", "y = 1", "y = 2", "one")]
    assert reason_for(Mutant("a.py", 3, "x = 1", "x = 7", ""), known) == "any"
    assert reason_for(Mutant("a.py", 3, "y = 1", "y = 2", ""), known) == "one"
    assert reason_for(Mutant("a.py", 3, "y = 1", "y = 0", ""), known) is None
    assert reason_for(Mutant("b.py", 3, "x = 1", "x = 7", ""), known) is None


def test_every_excuse_is_of_a_line_that_there_is() -> None:
    for excuse in excuses():
        text = " ".join((ROOT / excuse.file).read_text(encoding="utf-8").split())
        assert excuse.before in text, excuse
        assert excuse.reason
