"""The JSON schema of the metadata says what the parser does."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptzip.adz.container.metadata import parse_metadata, write_metadata
from adaptzip.adz.container.reader import open_adz
from adaptzip.errors import AdaptzipError
from formats import decoder
from tests.cases.metadata import SMALL
from tests.formats.decoded import GOLDEN

SCHEMA_FILE = files("adaptzip.adz.container") / "metadata.schema.json"
SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
HASH = "A" * 22
VALID = {**SMALL, "modules": [["a.{0-3}", 8, 6], ["c", 8, 18, "conv", [3, 3]]]}
LARGE = st.sampled_from([0, 1, -1, 2**20, 2**20 + 1, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**400])
VALUES = st.one_of(
    LARGE,
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.sampled_from(["svd/1", "svd/0", "svd/01", "-a/1", "x-1/999999999", "x/1000000000", "A" * 22, "A" * 21 + "+"]),
    st.sampled_from(
        [
            ["base", 4],
            ["file", 0, ""],
            ["embedded", 1, ""],
            ["reference", 2**20, "m", None],
            ["start", 8, "", ["uniform", 2**64 - 1, 100]],
            ["start", 8, "", ["uniform", 2**64, 100]],
            ["start", 8, "", ["uniform", 1, 101]],
            ["start", 8, "", ["uniform", 1]],
            ["start", 8, "", [1, 1, 1]],
            ["disk", 4],
            ["base"],
        ]
    ),
    st.sampled_from(
        [
            [0, {}],
            [1, {"r": 3}],
            [12, {"z": None}, "r"],
            [13, {}],
            [14, {}],
            [True, {}],
            [1, []],
            [0],
            [["w", []]],
            [["w", [3, 4], "F16", "Q8", "bias"], ["x", [0]]],
            [["w", [2**40]]],
            [["w", [-1]]],
            [["w", [1.0]]],
            [["w", [1] * 17]],
            [["w", [1], 2]],
            [["w"]],
        ]
    ),
    st.sampled_from(
        [[], {}, ["x"], {"lossless": True}, {"lossless": 1}, [5, None], [5, "h"], [5, 5], [5], [True, None]]
    ),
)
ENTRIES = st.lists(
    st.one_of(
        st.sampled_from(["a", "b{0-1}", "linear", "conv", "embedding", "none", [2], [2, 3], [0], [1] * 9, [True]]),
        st.sampled_from([6, 12, True, 0, -1, 2**31, 1.0, None]),
    ),
    min_size=2,
    max_size=6,
)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value is valid under the keywords that the schema uses."""
    checks: dict[str, Callable[[Any], bool]] = {
        "const": lambda expected: type(value) is type(expected) and value == expected,
        "enum": lambda options: value in options,
        "type": lambda kinds: any(is_of(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)),
        "pattern": lambda pattern: not isinstance(value, str) or re.search(pattern, value) is not None,
        "minimum": lambda least: not is_of(value, "number") or value >= least,
        "maximum": lambda most: not is_of(value, "number") or value <= most,
        "exclusiveMaximum": lambda most: not is_of(value, "number") or value < most,
        "minItems": lambda least: not isinstance(value, list) or len(value) >= least,
        "maxItems": lambda most: not isinstance(value, list) or len(value) <= most,
        "items": lambda each: not isinstance(value, list) or all(fits(item, each) for item in value),
        "prefixItems": lambda all_: (
            not isinstance(value, list) or all(fits(item, each) for item, each in zip(value, all_, strict=False))
        ),
        "required": lambda keys: not isinstance(value, dict) or all(key in value for key in keys),
        "properties": lambda each: (
            not isinstance(value, dict) or all(fits(value[key], each[key]) for key in each if key in value)
        ),
    }
    checks["$ref"] = lambda place: fits(value, SCHEMA["$defs"][place.removeprefix("#/$defs/")])
    ignored = {"$schema", "$defs", "title", "description", "default"}
    return all(checks[key](argument) for key, argument in schema.items() if key not in ignored)


def is_of(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        return not isinstance(value, bool) and isinstance(value, int if kind == "integer" else int | float)
    return isinstance(value, TYPES[kind])


def accepted(value: dict[str, Any]) -> bool:
    try:
        parse_metadata(json.dumps(value), HASH if value.get("basis") is not None else "")
    except AdaptzipError:
        return False
    return True


def decoder_accepts(value: dict[str, Any]) -> bool:
    try:
        metadata = decoder.parse_metadata(json.dumps(value))
        decoder.check_basis(metadata.get("basis"), HASH if metadata.get("basis") is not None else "")
        decoder.parse_modules(metadata["modules"])
        decoder.parse_extras(metadata["extras"])
        decoder.parse_adapter(metadata.get("adapter", [0, {}]))
    except decoder.Broken:
        return False
    return True


def test_the_example_is_valid() -> None:
    assert fits(VALID, SCHEMA)
    assert accepted(VALID)
    assert decoder_accepts(VALID)


@pytest.mark.parametrize("key", sorted(SCHEMA["required"]))
def test_a_required_key_is_required(key: str) -> None:
    value = {k: v for k, v in VALID.items() if k != key}
    assert not fits(value, SCHEMA)
    assert not accepted(value)
    assert not decoder_accepts(value)


def only_told_in_the_text(key: str, item: Any) -> bool:
    """Whether only the text may forbid an item: a start is of its own source alone, what is absent is a usual field."""
    if key == "basis" and isinstance(item, list) and item:
        return bool((item[0] == "start") != (len(item) == 4))
    if key == "adapter" and isinstance(item, list):
        return len(item) > 2
    return False


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(SCHEMA["properties"])), VALUES)
def test_any_value_of_any_key(key: str, item: Any) -> None:
    value = VALID | {key: item}
    assert fits(value, SCHEMA) == accepted(value) or only_told_in_the_text(key, item)
    # The decoder knows one method and refuses others at once, where adaptzip does so when it decodes.
    known = value.get("method", "svd/1") == "svd/1" and (  # its only option is that of all methods
        not isinstance(value.get("config"), dict) or not value["config"].keys() - {"lossless"}
    )
    assert decoder_accepts(value) == (accepted(value) and known)


@settings(max_examples=400, deadline=None)
@given(ENTRIES)
def test_any_module(entry: list[Any]) -> None:
    value = VALID | {"modules": [entry]}
    kernel = entry[4] if len(entry) == 5 else []
    divides = not fits(value, SCHEMA) or entry[2] % math.prod(kernel) == 0 and (len(entry) < 5 or entry[3] == "conv")
    assert accepted(value) == (fits(value, SCHEMA) and divides)
    assert decoder_accepts(value) == accepted(value)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.adz")), ids=lambda path: path.stem)
def test_written_metadata_is_valid_and_comes_back(path: Any) -> None:
    compressed = open_adz(path)
    text = write_metadata(compressed)
    assert fits(json.loads(text), SCHEMA)
    basis = compressed.basis
    found = parse_metadata(text, basis.hash if basis is not None else "")
    assert dict(found.sites) == dict(compressed.sites)
    assert (found.config, found.extras) == (compressed.config, compressed.extras.entries)
    assert text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)
    assert "\n" not in text


def test_the_text_lists_every_key_with_its_default() -> None:
    text = (GOLDEN.parent / "adz-1.md").read_text()
    table = text[text.index("| key | type | default |") :].split("\n\n")[0]
    rows = {match[1]: match[2] for match in re.finditer(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|", table, re.MULTILINE)}
    assert rows.keys() == SCHEMA["properties"].keys()
    for key, shown in rows.items():
        default = SCHEMA["properties"][key].get("default", ...)
        assert shown == ("none" if default is ... else f"`{json.dumps(default)}`")
        assert (default is ...) == (key in SCHEMA["required"])
