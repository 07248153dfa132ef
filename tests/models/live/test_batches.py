"""Training data: what is read, held out, encoded and put together, and what a model writes itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import BertModel

from adaptzip.errors import AdaptzipWarning, CheckFailedError, CheckpointError, RefusedError, UsageError
from adaptzip.models.live.batches import (
    Encoded,
    Example,
    batches,
    collate,
    encode,
    examples_of,
    hold_out,
    read_examples,
    self_texts,
)
from adaptzip.models.live.running import NO_LABEL, LoadedModel, load_base, load_teacher
from tests.cases import tiny_peft
from tests.cases.models_on_disk import adapter, save

CPU = torch.device("cpu")
LETTER = {letter: 2 + i for i, letter in enumerate("abcdef")}


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content)
    return path


def ids(text: str) -> tuple[int, ...]:
    return tuple(LETTER[letter] for letter in text)


def loaded_as(make: Callable[[], nn.Module], folder: Path, **special: str) -> LoadedModel:
    return load_teacher(save(make, folder, **special), adapter(make(), "value", "v_proj", "q", "c_attn"), CPU)


def test_fields_are_read_from_json(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "d.jsonl",
        '{"body": "a b", "y": 3}\n{"body": "c", "y": null}\n'
        '{"body": "d e", "y": ["O", "NAME"]}\n{"body": "f", "y": "x"}',
    )
    assert read_examples(path, text_field="body", label_field="y") == (
        Example("a b", 3),
        Example("c"),
        Example("d e", ("O", "NAME")),
        Example("f", "x"),
    )
    assert read_examples(path, text_field="body")[0] == Example("a b")


def test_fields_are_read_from_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "d.csv", "label,text\n1,a b\n,c\n")
    assert read_examples(path, label_field="label") == (Example("a b", 1), Example("c"))


def test_plain_texts_have_no_labels(tmp_path: Path) -> None:
    path = write(tmp_path, "d.txt", "a b\n\nc\n")
    assert read_examples(path) == (Example("a b"), Example("c"))
    with pytest.raises(CheckpointError, match=r"line 1: has no field 'label' \(its fields: text\)"):
        read_examples(path, label_field="label")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", '{"text": "a", "y": {}}', "line 1: 'y' is not a label"),
        ("d.jsonl", '{"text": "a", "y": [1, null]}', "line 1: 'y' is not a label"),
        ("d.jsonl", '{"text": "a", "y": NaN}', "line 1: 'y' is not a label"),
        ("d.jsonl", '{"text": "a", "y": null}', "none of its 1 texts has a label in 'y'"),
        ("d.jsonl", '{"text": "a", "y": 1}\n{"text": "b"}', r"line 2: has no field 'y' \(its fields: text\)"),
        ("d.jsonl", "", "holds no text"),
        ("d.xlsx", "", "found .xlsx"),
    ],
)
def test_bad_data_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_examples(path, label_field="y")
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_equal_texts_are_held_out_together() -> None:
    examples = [Example(f"text {i % 40}", str(i)) for i in range(100)]
    train, held = hold_out(examples, 0.2, 1)
    assert not {e.text for e in train} & {e.text for e in held}
    assert sorted((*train, *held), key=lambda e: int(str(e.label))) == examples
    assert 20 <= len(held) <= 22
    assert [int(str(e.label)) for e in held] == sorted(int(str(e.label)) for e in held)
    assert hold_out(examples, 0.2, 1) == (train, held) != hold_out(examples, 0.2, 2)


@pytest.mark.parametrize(("share", "held"), [(0.001, 1), (0.999, 2), (0.5, 2)])
def test_there_is_at_least_one_on_each_side(share: float, held: int) -> None:
    parts = hold_out([Example(letter) for letter in "abc"], share, 0)
    assert [len(part) for part in parts] == [3 - held, held]


def test_what_can_not_be_held_out_is_refused() -> None:
    with pytest.raises(CheckFailedError, match="there are no texts"):
        hold_out([], 0.5, 0)
    for share in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match="the held-out share is"):
            hold_out([Example("a"), Example("b")], share, 0)


@pytest.mark.parametrize(
    ("example", "what"),
    [
        (Example("a"), "text"),
        (Example("a", pair="b"), "first text"),
        (Example("a", completion=" b"), "prompt"),
        (Example("a", messages=({"role": "user", "content": "a"},) * 2, prompt=1), "prompt"),
    ],
)
def test_what_is_held_out_together_is_named(example: Example, what: str) -> None:
    same = [example, replace(example, label=1, pair=example.pair and "c", completion=example.completion and " c")]
    with pytest.raises(CheckFailedError, match=f"all examples have the same {what}, expected at least 2") as caught:
        hold_out(same, 0.5, 0)
    assert ("held out together" in str(caught.value.hint)) == (what != "text")
    assert hold_out([*same, replace(example, text="b")], 0.5, 0)[0]


def test_plain_strings_are_texts(tmp_path: Path) -> None:
    assert examples_of(["a b", Example("c", 1)]) == (Example("a b"), Example("c", 1))
    with pytest.raises(UsageError, match="found a path") as caught:
        examples_of(tmp_path)  # type: ignore[arg-type]
    assert "read_examples" in str(caught.value.hint)
    with pytest.raises(UsageError, match="expected texts, found dict"):
        examples_of([{"text": "a"}])  # type: ignore[list-item]


def test_classes_by_name_and_number(tmp_path: Path) -> None:
    loaded = loaded_as(tiny_peft.bert, tmp_path)
    encoded = encode(loaded, [Example("a b", "LABEL_2"), Example("c", "1"), Example("d e f")], max_tokens=2)
    assert encoded == (Encoded(ids("ab"), (2,)), Encoded(ids("c"), (1,)), Encoded(ids("de")))
    batch = collate(loaded, encoded)
    assert batch.labels is not None
    assert batch.labels.tolist() == [2, 1, NO_LABEL]
    assert collate(loaded, encoded[2:]).labels is None
    for label in ("3", "-1", "other"):
        with pytest.raises(CheckpointError, match="none of the classes LABEL_0, LABEL_1, LABEL_2") as caught:
            encode(loaded, [Example("a b", label)], max_tokens=8)
        assert repr(label) in str(caught.value)
        assert "0 to 2" in str(caught.value.hint)


def test_a_words_first_token_has_its_label(tmp_path: Path) -> None:
    loaded = loaded_as(tiny_peft.bert_tokens, tmp_path)
    # The tokeniser splits at punctuation, and what it does not know is <s>.
    encoded = encode(loaded, [Example("a  b.c d", "NAME O 2"), Example("f")], max_tokens=8)
    assert encoded[0].ids == (*ids("ab"), 1, *ids("cd"))
    assert encoded[0].labels == (1, 0, NO_LABEL, NO_LABEL, 2)
    batch = collate(loaded, encoded)
    assert batch.labels is not None
    assert batch.labels.tolist() == [[1, 0, NO_LABEL, NO_LABEL, 2], [NO_LABEL] * 5]
    rows = loaded.rows_labels(batch)
    assert rows is not None
    assert rows.tolist() == [1, 0, NO_LABEL, NO_LABEL, 2, NO_LABEL]
    assert encode(loaded, [Example("a b c", "O O O")], max_tokens=2)[0] == Encoded(ids("ab"), (0, 0))
    with pytest.raises(CheckpointError, match="'a b' has 2 words and 1 labels"):
        encode(loaded, [Example("a b", "O")], max_tokens=8)
    with pytest.raises(CheckpointError, match="'DATE'.* none of the classes O, NAME, PLACE"):
        encode(loaded, [Example("a b", "O DATE")], max_tokens=8)


def test_a_batch_is_as_wide_as_a_long_text_without_labels(tmp_path: Path) -> None:
    loaded = loaded_as(tiny_peft.bert_tokens, tmp_path)
    batch = collate(loaded, encode(loaded, [Example("a", "O"), Example("b c d")], max_tokens=8))
    assert batch.labels is not None
    assert batch.labels.shape == batch.ids.shape == (2, 3)


def test_texts_to_be_written(tmp_path: Path) -> None:
    loaded = loaded_as(tiny_peft.t5, tmp_path)
    encoded = encode(loaded, [Example("a b c", "d"), Example("f", "a b c d")], max_tokens=3)
    assert encoded == (Encoded(ids("abc"), ids("d")), Encoded(ids("f"), ids("abc")))
    batch = collate(loaded, encoded)
    assert batch.labels is not None
    assert batch.labels.tolist() == [[5, NO_LABEL, NO_LABEL], [2, 3, 4]]
    assert loaded(batch).shape == (4, 32)
    with pytest.warns(AdaptzipWarning, match="no text to be written is named"):
        assert collate(loaded, encode(loaded, [Example("a b")], max_tokens=3)).labels is None
    with pytest.raises(CheckpointError, match="some examples have a text to be written and some have none"):
        encode(loaded, [Example("a", "b"), Example("c")], max_tokens=3)


def test_texts_are_packed_with_ends_between_them(tmp_path: Path) -> None:
    examples = [Example("a b c"), Example("d e"), Example("f f")]
    loaded = loaded_as(tiny_peft.llama, tmp_path / "a", eos_token="<s>")
    stream = (*ids("abc"), 1, *ids("de"), 1, *ids("ff"), 1)
    assert encode(loaded, examples, max_tokens=4, packed=True) == (
        Encoded(stream[:4]),
        Encoded(stream[4:8]),
        Encoded(stream[8:]),
    )
    assert [len(e.ids) for e in encode(loaded, examples, max_tokens=9, packed=True)] == [9]
    without = loaded_as(tiny_peft.llama, tmp_path / "b")
    assert encode(without, examples, max_tokens=9, packed=True) == (Encoded(ids("abcdeff")),)


def test_only_causal_texts_are_packed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only texts of a causal language model can be packed"):
        encode(loaded_as(tiny_peft.bert, tmp_path), [Example("a")], max_tokens=4, packed=True)


def test_an_encoder_and_a_causal_model_have_no_use_for_labels(tmp_path: Path) -> None:
    encoder = loaded_as(lambda: BertModel(tiny_peft.bert().config), tmp_path / "a")
    causal = loaded_as(tiny_peft.gpt2, tmp_path / "b")
    for loaded in (encoder, causal):
        with pytest.raises(UsageError, match=f"a model for {loaded.kind} has no use for labels"):
            encode(loaded, [Example("a b", "anything")], max_tokens=99)
        assert collate(loaded, encode(loaded, [Example("a b")], max_tokens=99)).labels is None
    # No more than the model has positions.
    assert len(encode(causal, [Example("a " * 30)], max_tokens=99)[0].ids) == 16


def test_texts_without_tokens_are_left_out(tmp_path: Path) -> None:
    loaded = loaded_as(tiny_peft.llama, tmp_path)
    with pytest.warns(AdaptzipWarning, match="1 of 2 texts have no token that counts"):
        assert encode(loaded, [Example("\t"), Example("a")], max_tokens=4) == (Encoded(ids("a")),)
    with pytest.raises(CheckFailedError, match="none of the texts has a token"):
        encode(loaded, [Example(" ")], max_tokens=4)


def test_completions_beyond_the_limit(tmp_path: Path) -> None:
    loaded = loaded_as(tiny_peft.gpt2, tmp_path)
    far, near = Example("a b c d", completion=" e"), Example("a", completion=" e")
    with pytest.warns(AdaptzipWarning, match="1 of 2 texts have no token that counts within 3"):
        assert len(encode(loaded, [far, near], max_tokens=3)) == 1
    with pytest.raises(CheckFailedError, match="^no completion begins within 3 tokens$") as caught:
        encode(loaded, [far], max_tokens=3)
    assert caught.value.hint == "raise `max_tokens=`, give shorter prompts, or add `score='all'`"
    with pytest.raises(CheckFailedError, match="^no completion begins within 16 tokens$") as caught:
        encode(loaded, [Example("a " * 30, completion="e")], max_tokens=99)
    assert caught.value.hint == "give shorter prompts, or add `score='all'`"
    assert encode(replace(loaded, score="all"), [far], max_tokens=3)
    with pytest.raises(CheckFailedError, match="none of the texts has a token"):
        encode(loaded, [Example("a b", completion="")], max_tokens=3)


def test_batches_for_evaluation_are_short_ones_first(tmp_path: Path) -> None:
    loaded = loaded_as(tiny_peft.bert, tmp_path)
    examples = [Example("a b c", "0"), Example("d", "1"), Example("e f", "2")]
    first, second = batches(loaded, encode(loaded, examples, max_tokens=8), 2)
    assert first.ids.tolist() == [[5, 0], [6, 7]]
    assert first.mask.tolist() == [[True, False], [True, True]]
    assert first.labels is not None
    assert second.labels is not None
    assert (first.labels.tolist(), second.labels.tolist()) == ([1, 2], [0])


def test_a_model_writes_texts_of_its_own(tmp_path: Path) -> None:
    loaded = load_base(save(tiny_peft.gpt2, tmp_path, bos_token="<s>"), [], CPU)
    found = self_texts(loaded, 20, max_tokens=12, seed=1, batch=8)
    assert len(found) == 20
    assert all(example.label is None and example.text.strip() for example in found)
    assert len({example.text for example in found}) > 10
    assert set("".join(example.text for example in found)) <= set(" abcdef<pad>")
    assert found == self_texts(loaded, 20, max_tokens=12, seed=1, batch=8)
    assert found != self_texts(loaded, 20, max_tokens=12, seed=2, batch=8)


def test_a_model_that_writes_nothing_is_refused(tmp_path: Path) -> None:
    loaded = load_base(save(tiny_peft.gpt2, tmp_path, bos_token="<s>"), [], CPU)
    loaded.model.config.eos_token_id = list(range(32))  # type: ignore[union-attr]
    with pytest.raises(RefusedError, match="the model wrote 0 texts that are not empty of 24, expected 4"):
        self_texts(loaded, 4, max_tokens=12, seed=1, batch=8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tiny_peft.t5, "only in answer to another"),
        (tiny_peft.bert, "a model for classifier can't write text"),
        (lambda: BertModel(tiny_peft.bert().config), "a model for encoder can't write text"),
    ],
)
def test_what_writes_no_text_is_refused(make: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=message):
        self_texts(loaded_as(make, tmp_path), 4, max_tokens=12, seed=1)
