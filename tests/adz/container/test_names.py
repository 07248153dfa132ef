"""Patterns of module names: written for any names, read within limits."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptzip.adz.container.names import expand, factor
from adaptzip.errors import FormatError
from formats import decoder

tricky = st.text(st.sampled_from("ab019.{},\\-[]é²٣ \n"), max_size=10)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
paths = st.builds(
    "{}.{}.{}".format, st.sampled_from(["h", "layers"]), st.integers(0, 20), st.sampled_from(["q", "v", "1-2", "{x}"])
)


def independently(pattern: str) -> list[str]:
    return list(decoder.parse_modules([[pattern, 1, 1]]))


@settings(max_examples=300, deadline=None)
@given(st.sets(tricky | any_text | paths, max_size=25))
def test_names_come_back(names: set[str]) -> None:
    patterns = factor(names)
    assert sorted(expand(patterns, 25)) == sorted(names)
    assert list(decoder.parse_modules([[pattern, 1, 1] for pattern in patterns])) == sorted(names)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab01-{},\\"), max_size=14))
def test_both_readers_agree_on_any_pattern(pattern: str) -> None:
    try:
        names = expand([pattern], 1000)
    except FormatError:
        with pytest.raises(decoder.Broken):
            independently(pattern)
    else:
        if len(set(names)) == len(names):
            assert independently(pattern) == sorted(names)


def test_the_order_of_names_does_not_matter() -> None:
    names = [f"h.{i}.{part}" for i in range(12) for part in ("q", "k", "v")]
    assert factor(names) == factor(reversed(names)) == ["h.{0-11}.{k,q,v}"]


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["a"], ["a"]),
        (["a.1", "a.2", "a.3", "a.5"], ["a.{1-3,5}"]),
        (["a.01", "a.1"], ["a.{1,01}"]),
        (["x{y}.a", "x,\\"], [r"x\,\\", r"x\{y\}.a"]),
        (["e[0]", "e[1]"], ["e[{0-1}]"]),
    ],
)
def test_patterns_are_short(names: list[str], patterns: list[str]) -> None:
    assert factor(names) == sorted(patterns)


def test_text_that_looks_like_a_range_is_escaped() -> None:
    assert expand([r"{1\-3,b}"], 9) == ["1-3", "b"]
    assert expand(["{1-3,b}"], 9) == ["1", "2", "3", "b"]
    assert expand(["{01-3}"], 9) == ["01-3"]
    assert expand(["1-3"], 9) == ["1-3"]


@pytest.mark.parametrize(
    "pattern",
    [
        "{0-999999}" * 10_000,
        "{" + ",".join(["0-999999999999"] * 10_000) + "}",
        "x" * 100_000 + "{0-99999}",
        "{" + "a," * 100_000 + "a}" + "{0-9999}",
        "{0-99999999999999999}",
    ],
)
def test_bombs_are_refused_at_once(pattern: str) -> None:
    start = time.process_time()
    with pytest.raises(FormatError, match="stand for more than") as caught:
        expand([pattern], 10**6)
    assert time.process_time() - start < 2
    assert len(str(caught.value)) < 200


def test_many_modules_are_factored_quickly() -> None:
    names = [f"model.layers.{i}.mlp.experts.{e}.{p}_proj" for i in range(24) for e in range(64) for p in ("up", "down")]
    start = time.process_time()
    assert factor(names) == ["model.layers.{0-23}.mlp.experts.{0-63}.{down_proj,up_proj}"]
    assert time.process_time() - start < 2
