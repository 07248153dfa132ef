"""Which modules a configuration means, by what PEFT's own functions say, and in a time that grows with their number."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from adaptzip.checkpoints import _pattern_tables, _targets
from adaptzip.checkpoints._config import anchored, parse_config
from adaptzip.checkpoints._pattern_tables import PatternTable
from adaptzip.checkpoints._plain_names import plain_name
from adaptzip.checkpoints._targets import Targets
from adaptzip.errors import CheckpointError, RefusedError

words = st.sampled_from(["q", "k", "layers", "0", "1", "12", "h-x", "", "q\n"])
names = st.lists(words, min_size=1, max_size=4).map(".".join)
plain = names.map(re.escape)
patterns = st.one_of(
    names.filter(lambda name: "\n" not in name),
    plain,
    plain.map("^{}".format),
    plain.map("{}$".format),
    st.sampled_from(
        ["q|k", r".*\.q", r"(q|k)", r"layers\.\d+\.q", r"^layers\.(0|1)\..*", "[qk]", r"q\b", "(?!k).", "all"]
    ),
    st.lists(plain, min_size=1, max_size=3).map("|".join),
)
some_names = st.one_of(st.none(), st.lists(names, max_size=3), patterns)


@given(st.lists(patterns, max_size=5, unique=True), names)
def test_the_first_pattern_that_fits_is_that_of_peft(keys: list[str], name: str) -> None:
    table = PatternTable({key: place for place, key in enumerate(keys)})
    key = get_pattern_key(keys, name)
    wanted = keys.index(key) if key in keys and re.match(rf"(.*\.)?({key})$", name) else -1
    assert table.first(name, -1) == wanted
    assert (list(table), len(table), [table[key] for key in keys]) == (keys, len(keys), list(range(len(keys))))


@given(some_names, some_names, st.lists(names, max_size=2), st.sampled_from([None, [], 0, [1, 12]]), patterns, names)
def test_targets_are_those_of_peft(
    wanted: Any, excluded: Any, saved: list[str], layers: Any, layers_pattern: str, name: str
) -> None:
    raw = {
        "target_modules": wanted or [],
        "exclude_modules": excluded,
        "modules_to_save": saved,
        "layers_to_transform": layers,
        "layers_pattern": [layers_pattern],
        "target_parameters": None,
    }
    told = check_target_module_exists(SimpleNamespace(**raw), name)
    # What is excluded is told by an object of a class of its own.
    assert Targets(raw).load(name) == (bool(told) and type(told).__name__ != "_ExcludedModule")


def test_what_saves_a_module_whole() -> None:
    targets = Targets({"modules_to_save": ["score", "a.b", "head"]})
    assert targets.saved_whole("model.head.score") == "score"
    assert targets.saved_whole("x.a.b.c") == "a.b"
    assert targets.saved_whole("x.a_b.c") == "a.b"
    assert targets.saved_whole("x.ab.c") is None
    assert targets.saved_whole("scores") is None
    assert targets.saved_whole("x\n.score") is None


def test_a_layer_with_thousands_of_digits_is_none() -> None:
    raw = {"target_modules": ["q"], "layers_to_transform": [1]}
    assert not Targets(raw).choose(f"layers.{'1' * 5000}.q")


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("a.b", ("a\0b", False)),
        (r"^a\.b", ("a.b", True)),
        (r"a\.b$", ("a.b", False)),
        (r"a\-b", ("a-b", False)),
        ("a|b", None),
        (r"a\d", None),
        ("a*", None),
        ("a\nb", None),
        ("a\0b", None),
        ("", ("", False)),
    ],
)
def test_patterns_that_are_names(pattern: str, told: tuple[str, bool] | None) -> None:
    assert plain_name(pattern) == told


def test_ten_thousand_names_need_no_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a pattern was tried")

    for module in (_pattern_tables, _targets):
        monkeypatch.setattr(module, "match", never)
    monkeypatch.setattr(_targets, "fullmatch", never)
    modules = [f"model.layers.{n // 100}.experts.{n % 100}.up_proj" for n in range(10_000)]
    for write in (anchored, re.escape, str):
        table = PatternTable({write(name): place for place, name in enumerate(modules)})
        assert [table.first(name, -1) for name in modules] == list(range(10_000))
    for wanted in (modules, "|".join(map(re.escape, modules)), "|".join(modules)):
        targets = Targets({"target_modules": wanted, "modules_to_save": modules[1].split(".")[:1] * 3 + ["score"]})
        assert all(map(targets.choose, modules))
        assert not targets.load(modules[0])
        assert not targets.choose("model.layers.0.experts.0.down_proj")


def test_a_pattern_that_takes_too_long_is_refused_by_its_file() -> None:
    config = parse_config({"rank_pattern": {r"(a+)+": 4}}, "adapter_config.json")
    with pytest.raises(RefusedError, match="takes too long"):
        config.rank("a" * 60 + "!")
    with pytest.raises(CheckpointError, match="no regular expression"):
        parse_config({"rank_pattern": {"(": 4}}, "adapter_config.json")
    with pytest.raises(RefusedError, match="adapter_config.json: target_modules: the pattern '.*characters"):
        parse_config({"target_modules": "(a)" * 2**17}, "adapter_config.json")
