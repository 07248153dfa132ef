"""Messages in the forms of data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adaptzip.errors import CheckpointError, UsageError
from adaptzip.models.kinds import Kind
from adaptzip.models.texts.example import Example
from adaptzip.models.texts.examples import read_examples
from adaptzip.models.texts.forms import check_forms
from tests.models.texts.test_examples import rows

USER, BOT = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}


def test_sharegpt(tmp_path: Path) -> None:
    said = [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    path = rows(tmp_path, {"id": "x1", "conversations": said})
    expected = Example("s\na", messages=({"role": "system", "content": "s"}, USER, BOT), prompt=2)
    assert read_examples(path) == (expected,)
    # The names of what speaks are all that is other than in messages.
    assert read_examples(rows(tmp_path, {"conversations": [USER, BOT]})) == (
        Example("a", messages=(USER, BOT), prompt=1),
    )
    with pytest.raises(CheckpointError, match="line 1: 'conversations' has a message from 'narrator'"):
        read_examples(rows(tmp_path, {"conversations": [{"from": "narrator", "value": "a"}]}))


def test_parts_that_are_text(tmp_path: Path) -> None:
    parted = {"role": "user", "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "c"}]}
    path = rows(tmp_path, {"messages": [parted, BOT]})
    assert read_examples(path) == (Example("a c", messages=(parted, BOT), prompt=1),)
    seen = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}
    with pytest.raises(CheckpointError, match="a part of type 'image', expected text alone"):
        read_examples(rows(tmp_path, {"messages": [seen, BOT]}))


def test_messages_are_passed_on_whole(tmp_path: Path) -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
    called = {"role": "assistant", "content": None, "tool_calls": calls}
    answered = {"role": "tool", "name": "f", "content": "3"}
    (example,) = read_examples(rows(tmp_path, {"messages": [USER, called, answered, BOT]}))
    assert example.messages == (USER, called, answered, BOT)
    assert example.prompt == 3
    with pytest.raises(CheckpointError, match="has tools beside its messages"):
        read_examples(rows(tmp_path, {"messages": [USER, BOT], "tools": [{"name": "f"}]}))


def test_a_prompt_and_its_completion_are_messages_both(tmp_path: Path) -> None:
    path = rows(tmp_path, {"asked": [USER], "said": [BOT]})
    (example,) = read_examples(path, text_field="asked", completion_field="said")
    assert (example.messages, example.prompt) == ((USER, BOT), 1)
    with pytest.raises(CheckpointError, match="'said' is no list of messages"):
        read_examples(rows(tmp_path, {"asked": [USER], "said": "b"}), text_field="asked", completion_field="said")


def test_half_a_character_within_messages(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for message in ('{"role": "user", "content": "\\ud83d"}', '{"role": "user", "content": "a", "name": "\\ud83d"}'):
        path.write_text(f'{{"messages": [{message}]}}')
        with pytest.raises(CheckpointError, match=r"'messages' holds half of a character, \\ud83d"):
            read_examples(path)


def test_a_conversation_ends_with_its_last_answer(tmp_path: Path) -> None:
    thanks = {"role": "user", "content": "c"}
    for more in ([thanks], [thanks, {"role": "tool", "content": "d"}]):
        path = rows(tmp_path, {"messages": [USER, BOT, *more]})
        assert read_examples(path) == (Example("a", messages=(USER, BOT), prompt=1),)
    gemma = {"role": "model", "content": "b"}
    assert read_examples(rows(tmp_path, {"messages": [USER, gemma]})) == (
        Example("a", messages=(USER, gemma), prompt=1),
    )
    assert read_examples(rows(tmp_path, {"messages": [USER]})) == (Example("a", messages=(USER,)),)


def test_messages_that_are_written_in_a_text(tmp_path: Path) -> None:
    path = rows(tmp_path, {"messages": json.dumps([USER, BOT])})
    assert read_examples(path) == (Example("a", messages=(USER, BOT), prompt=1),)


@pytest.mark.parametrize("other", [Example("c"), Example("c", messages=(USER,))])
def test_only_some_rows_have_an_answer(other: Example) -> None:
    answered = Example("a", messages=(USER, BOT), prompt=1)
    for score in (None, "completion"):
        with pytest.raises(CheckpointError, match="the text 'c' has no completion or answer to be scored"):
            check_forms("causal", score, [answered, other])
    check_forms("causal", "all", [answered, other])
    check_forms("causal", None, [other])


@pytest.mark.parametrize("kind", ["causal", "classifier", "encoder", "seq2seq"])
def test_lists_of_words_are_for_models_of_words(kind: Kind) -> None:
    listed = Example("a b", words=("a", "b"))
    with pytest.raises(UsageError, match=f"a model for {kind} reads no lists of words, as that of 'a b'"):
        check_forms(kind, None, [listed])
    check_forms("tokens", None, [listed])
