"""Patterns of files: what `re` says of them, bounds of how long it can take, and what becomes of those beyond."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from math import inf
from re import _constants as kinds  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptzip.core.patterns import matching
from adaptzip.core.patterns.asking import Helper
from adaptzip.core.patterns.matching import LONGEST, fullmatch, is_pattern, match
from adaptzip.core.patterns.ways import ways
from adaptzip.errors import RefusedError

SLOW = (r"(a+)+$", r"(a|a)*b", r"(a*)*c", r"(?!(a+)+$)b", r"(?:(?:a?){30}){30}b")
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attn|mlp).*?(?:k_proj|v_proj|q_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attn|mlp)\.(?:(?:k_proj|v_proj|q_proj)))"
)
ATOMS = (
    "a",
    "b",
    ".",
    r"\.",
    "[ab]",
    "[^a]",
    r"\w",
    "ab",
    "a*",
    "a+?",
    ".*",
    "[ab]+",
    r"\w*\.",
    "a{1,3}",
    "b?",
    "a{2,}",
)
atoms = st.sampled_from(ATOMS)
patterns = st.recursive(
    st.lists(atoms, min_size=1, max_size=3).map("".join),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=2).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        inner.map(lambda part: f"(?:{part})?"),
        st.sampled_from(["a", "[ab]", r"\w"]).map(lambda part: f"(?:{part})*"),
    ),
    max_leaves=6,
)
texts = st.text("ab.", max_size=9)


def tried(pattern: str, text: str) -> int:
    """How often a matcher that goes every way comes to the end of the pattern, or is stuck."""

    def sequence(items: list[Any], place: int) -> Iterator[int | None]:
        if not items:
            yield place
            return
        for behind in item(items[0], place):
            if behind is None:
                yield None
            else:
                yield from sequence(items[1:], behind)

    def item(one: Any, place: int) -> Iterator[int | None]:
        kind, told = one
        if kind is kinds.BRANCH:
            for branch in told[1]:
                yield from sequence(list(branch), place)
        elif kind is kinds.SUBPATTERN:
            yield from sequence(list(told[3]), place)
        elif kind in (kinds.MAX_REPEAT, kinds.MIN_REPEAT):
            least, most, inner = told
            yield from repeated(list(inner), place, least, most)
        else:
            single = re.compile(_written(one)).match(text, place)
            yield None if single is None else single.end()

    def repeated(inner: list[Any], place: int, least: int, most: Any) -> Iterator[int | None]:
        if least <= 0:
            yield place
        if most is kinds.MAXREPEAT or most > 0:
            for behind in sequence(inner, place):
                if behind is None or behind == place:
                    yield None
                else:
                    yield from repeated(inner, behind, least - 1, most if most is kinds.MAXREPEAT else most - 1)

    return sum(end is not None for end in sequence(list(_parser.parse(pattern)), 0))


def _written(one: Any) -> str:
    kind, told = one
    if kind is kinds.LITERAL:
        return re.escape(chr(told))
    if kind is kinds.NOT_LITERAL:
        return f"[^{chr(told)}]"
    if kind is kinds.ANY:
        return "."
    assert kind is kinds.IN, one
    parts = [
        {kinds.NEGATE: "^", kinds.CATEGORY: r"\w"}.get(one) or re.escape(chr(character)) for one, character in told
    ]
    return f"[{''.join(parts)}]"


@given(patterns, texts)
def test_no_pattern_can_be_laid_in_more_ways_than_told(pattern: str, text: str) -> None:
    assert tried(pattern, text) <= ways(pattern, len(text))


@given(st.one_of(patterns, st.sampled_from([r"(a)(b)?\1", "(?!b)a.*", "(?i)A+", "a(?=b)", "(?P<x>a)+"])), texts)
def test_what_re_says(pattern: str, text: str) -> None:
    found = re.match(pattern, text)
    assert match(pattern, text) == (None if found is None else found.groupdict())
    assert fullmatch(pattern, text) == (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize(
    ("pattern", "most"),
    [
        (r"(.*\.)?(q_proj)$", 66),
        (r"(?:^|.*?\.)layers\.(?P<idx>\d+)\.", 66),
        (r".*?\.[^.]*\.(?P<idx>\d+)\.", 65),
        (r"model\.layers\.{}.q", 1),
        (r"[]a]+b", 1),
        (r"[]a]+a", 65),
        (r"a{3}", 65),
        (r"(a|b|c)(d|e)", 6),
        (r"(?:a|b)+", inf),
        (r"(?i)a", inf),
        (r"(a)\1", inf),
        (r"(?<!a)b", inf),
        ("(" * 99 + "a" + ")" * 99, inf),
        ("(a", inf),
        ("[a", inf),
        ("a)", inf),
    ],
)
def test_bounds(pattern: str, most: float) -> None:
    assert ways(pattern, 64) == most


def test_a_known_pattern_of_many_ways_is_tried_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = Helper.ask

    def spy(self: Helper, pattern: str, text: str, **how: Any) -> Any:
        asked.append(text)
        return ask(self, pattern, text, **how)

    monkeypatch.setattr(Helper, "ask", spy)
    assert fullmatch(UNSLOTH, "model.layers.3.self_attn.q_proj")
    assert fullmatch(UNSLOTH, "language_model.layers.3.mlp.k_proj")
    assert not fullmatch(UNSLOTH, "vision.layers.3.mlp.k_proj")
    assert len(asked) == 3


@pytest.mark.parametrize("pattern", SLOW)
def test_what_takes_too_long_is_refused_and_others_go_on(pattern: str) -> None:
    with pytest.raises(RefusedError, match="takes too long") as caught:
        fullmatch(pattern, "a" * 60 + "!")
    assert "list" in str(caught.value.hint)
    assert fullmatch(r"(a+)+", "aaa")
    assert not fullmatch(r"(a+)+", "aab")


def test_many_that_take_a_while_are_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr("adaptzip.core.patterns.matching.time.perf_counter", lambda: 0.3 * next(clock))
    matching._clock.fill()
    assert [match("a", "a") for _ in range(3)] == [{}] * 3
    with pytest.raises(RefusedError, match="takes too long"):
        match("a", "a")


def test_threads_ask_side_by_side() -> None:
    found: list[bool] = []

    def ask(number: int) -> None:
        found.extend(fullmatch(r"(?=x)x\d+", f"x{number}") for _ in range(50))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 200


def test_a_helper_that_died_is_replaced() -> None:
    helper = Helper()
    assert helper.ask("a", "a", whole=True, seconds=20) == [{}]
    process = helper._process
    assert process is not None
    process.kill()
    process.wait()
    assert helper.ask("(?P<x>a)b", "ab!", whole=False, seconds=20) == [{"x": "a"}]
    with pytest.raises(TimeoutError):
        helper.ask("(a+)+$", "a" * 60 + "!", whole=True, seconds=0.3)
    assert helper.ask("b", "a", whole=True, seconds=20) is None
    helper._end()


def test_patterns_that_are_none() -> None:
    assert not is_pattern("(")
    assert not is_pattern("(" * 5000 + ")" * 5000)
    assert is_pattern("a")
    with pytest.raises(RefusedError, match=f"{LONGEST + 1:,} characters"):
        is_pattern("a" * (LONGEST + 1))


def test_no_process_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **how: Any) -> Any:
        raise OSError("no more processes")

    monkeypatch.setattr(matching, "_helper", Helper())
    monkeypatch.setattr("adaptzip.core.patterns.asking.subprocess.Popen", none)
    with pytest.raises(RefusedError, match="can't be started: no more processes"):
        fullmatch(r"(?=x)x", "x")
