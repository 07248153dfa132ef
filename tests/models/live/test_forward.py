"""One function runs the model: nothing else in the rooms that have one calls it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import adaptzip
from adaptzip.errors import RefusedError
from adaptzip.models.live.forward import forward
from tests.cases import tiny_peft

ROOMS = ("models", "fitting", "reports", "distillation")
FED = {"input_ids", "inputs_embeds", "attention_mask", "past_key_values", "decoder_input_ids"}
RUN = {"forward", "generate", "__call__"}


def calls_of_a_model(source: str) -> Iterator[int]:
    """Lines that call what is called `model`, by an attribute or with what only transformers' models take."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        attribute = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        keywords = {keyword.arg for keyword in node.keywords}
        if attribute == "model" or attribute in RUN or keywords & FED:
            yield node.lineno


def test_one_place_runs_the_model() -> None:
    package = Path(adaptzip.__file__).parent
    found = {
        path.relative_to(package).as_posix(): len(lines)
        for room in ROOMS
        for path in (package / room).rglob("*.py")
        if (lines := list(calls_of_a_model(path.read_text())))
    }
    assert found == {"models/live/forward.py": 1}


@pytest.mark.parametrize(
    "line", ["loaded.model(batch.ids)", "model(input_ids=ids)", "model.forward(ids)", "self.model.generate(ids)"]
)
def test_a_second_place_would_be_found(line: str) -> None:
    assert list(calls_of_a_model(f"def run(loaded):\n    return {line}\n")) == [2]


def test_what_a_model_refuses_is_said_in_one_line() -> None:
    ids = torch.zeros(1, 40, dtype=torch.int64)
    with pytest.raises(RefusedError, match=r"^GPT2LMHeadModel does not run on these texts \(index out of range"):
        forward(tiny_peft.gpt2(), ids, ids == 0)
