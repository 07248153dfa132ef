"""JSON held to a budget: what would take much more memory than its file is refused before it is parsed."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from adaptzip.files.json_values import MOST_VALUES, json_values


@pytest.mark.parametrize("piece", ["[],", "{},", '{"":0},', "[0,0],", '"a",', "[[[]]],"])
def test_a_text_of_many_values_is_refused_before_it_takes_memory(piece: str) -> None:
    text = "[" + piece * (16 * 2**20 // len(piece)) + "0]"
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="values in"):
            json_values(text)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_header_of_many_tensors_is_read() -> None:
    entry = {"dtype": "F32", "shape": [16, 4096], "data_offsets": [123_456_789, 123_456_999]}
    header = {f"base_model.model.model.layers.{n // 384}.mlp.experts.{n % 384}.w.lora_A": entry for n in range(200_000)}
    text = json.dumps(header, separators=(",", ":"))
    assert sum(map(text.count, "[{,:")) > MOST_VALUES
    assert json_values(text.encode()) == header


def test_it_is_what_json_makes_of_it() -> None:
    for text in ('{"a": [1, 2.5, null]}', b'\xff\xfe"\x00a\x00"\x00', '"\\ud800"'):
        assert json_values(text) == json.loads(text)
    with pytest.raises(ValueError, match="Expecting value"):
        json_values("[")
    with pytest.raises(RecursionError):
        json_values("[" * 100_000)
    assert json_values('{"a":1,"a":2}', object_pairs_hook=list) == [("a", 1), ("a", 2)]
