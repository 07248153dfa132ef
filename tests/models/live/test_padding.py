"""A text's outputs in a batch are those of the text alone, whatever a model makes of padding."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from adaptzip.errors import AdaptzipWarning, RefusedError
from adaptzip.models.kinds import Kind
from adaptzip.models.live.batch import NO_LABEL, Batch
from adaptzip.models.live.loaded import LoadedModel
from adaptzip.models.live.padding import Company
from tests.cases.architectures import alone, build

IDS = [[9, 8, 2], [7, 30, 11, 12, 2], [20, 21, 22, 6, 7, 8, 9, 10, 2], [6, 19, 7, 8, 31, 9, 10, 11, 12, 13, 14, 2]]
TARGETS = [[4, 5], [3], [7, 8, 9, 10, 11, 12], [9, 8, 7]]
TOLD = "does not put out the same for a text in a batch as for the text alone: its texts are run one at a time"

MASKED: list[tuple[str, str, Kind]] = [
    ("Albert", "Model", "encoder"),
    ("Albert", "ForSequenceClassification", "classifier"),
    ("Bart", "ForConditionalGeneration", "seq2seq"),
    ("Bart", "ForSequenceClassification", "classifier"),
    ("DebertaV2", "Model", "encoder"),
    ("DebertaV2", "ForTokenClassification", "tokens"),
    ("GPT2", "LMHeadModel", "causal"),
    ("GPT2", "ForSequenceClassification", "classifier"),
    ("Gemma3", "ForCausalLM", "causal"),
    ("Gemma3", "TextForSequenceClassification", "classifier"),
    ("MPNet", "Model", "encoder"),
    ("MPNet", "ForTokenClassification", "tokens"),
    ("Mamba", "ForCausalLM", "causal"),
    ("ModernBert", "Model", "encoder"),
    ("ModernBert", "ForSequenceClassification", "classifier"),
    ("Qwen3Moe", "ForCausalLM", "causal"),
    ("Qwen3Moe", "ForSequenceClassification", "classifier"),
    ("Roberta", "Model", "encoder"),
    ("Roberta", "ForCausalLM", "causal"),
    ("T5", "ForConditionalGeneration", "seq2seq"),
    ("T5", "EncoderModel", "encoder"),
    ("T5", "ForTokenClassification", "tokens"),
    ("XLNet", "LMHeadModel", "causal"),
    ("XLNet", "ForTokenClassification", "tokens"),
]
"""Padding and its mask make no difference to these."""

LEAKING: list[tuple[str, str, Kind]] = [
    ("ConvBert", "Model", "encoder"),
    ("ConvBert", "ForSequenceClassification", "classifier"),
    ("FNet", "Model", "encoder"),
    ("FNet", "ForSequenceClassification", "classifier"),
    ("FNet", "ForTokenClassification", "tokens"),
    ("Funnel", "Model", "encoder"),
    ("XLNet", "ForSequenceClassification", "classifier"),
]
"""These convolve over padding, mix it in, or read a text's class from the last place."""


def rows_and_expected(architecture: str, head: str, kind: Kind) -> tuple[Tensor, Tensor, LoadedModel]:
    built = build(architecture, head, kind)
    loaded = LoadedModel(built.model, kind, None, {}, built.pad)  # type: ignore[arg-type]
    targets = None
    if kind == "seq2seq":
        width = max(map(len, TARGETS))
        targets = torch.tensor([[*row, *[NO_LABEL] * (width - len(row))] for row in TARGETS])
    with torch.no_grad():
        rows = loaded(loaded.batch(IDS, targets))
    return rows, torch.cat([alone(built, *pair) for pair in zip(IDS, TARGETS, strict=True)]), loaded


@pytest.mark.parametrize(("architecture", "head", "kind"), MASKED)
def test_padding_is_masked(architecture: str, head: str, kind: Kind) -> None:
    rows, expected, loaded = rows_and_expected(architecture, head, kind)
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=2e-6)
    assert not loaded.company.apart


@pytest.mark.parametrize(("architecture", "head", "kind"), LEAKING)
def test_texts_that_padding_reaches_are_run_alone(architecture: str, head: str, kind: Kind) -> None:
    with pytest.warns(AdaptzipWarning, match=f"^{architecture}{head} {TOLD}$"):
        rows, expected, loaded = rows_and_expected(architecture, head, kind)
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loaded.batch(IDS).apart


def test_all_batches_are_run_alike() -> None:
    built = build("FNet", "Model", "encoder")
    loaded = LoadedModel(built.model, "encoder", None, {}, built.pad)  # type: ignore[arg-type]
    with pytest.warns(AdaptzipWarning, match=TOLD):
        made = loaded.apart_if_one_is(loaded.batch(ids) for ids in ([IDS[0], IDS[0]], IDS))
    assert [batch.apart for batch in made] == [True, True]


def batch_of(*lengths: int) -> Batch:
    places = torch.arange(max(lengths)).repeat(len(lengths), 1)
    return Batch(places, places < torch.tensor(lengths).unsqueeze(1))


def rows_of(batch: Batch, crowd: int = 99, room: int = 99) -> Tensor:
    """Each text's length, where no more than so many tokens are run at once, and no more texts."""
    full = batch.ids.numel() > room or len(batch.ids) > crowd
    return batch.mask.sum(1, keepdim=True).float() + full


@pytest.mark.parametrize(
    ("lengths", "options"),
    [((3, 3), {"crowd": 1}), ((9, 4), {"room": 9}), ((9, 9), {"room": 9}), ((3, 8), {"room": 8})],
)
def test_what_depends_on_the_company_is_found(lengths: tuple[int, ...], options: dict[str, int]) -> None:
    company, batch = Company(), batch_of(*lengths)
    with pytest.warns(AdaptzipWarning, match=f"^Crowded {TOLD}$"):
        assert not company.suits(batch, batch.each(), lambda part: rows_of(part, **options), "Crowded")
    assert not company.suits(batch_of(2, 2), (), rows_of, "Crowded")


def test_it_is_looked_for_again_where_texts_are_longer_or_more_padded() -> None:
    seen: list[tuple[int, ...]] = []

    def run(batch: Batch) -> Tensor:
        seen.append(tuple(batch.ids.shape))
        return rows_of(batch)

    company = Company()
    for lengths in ((1,), (4, 4), (5, 5), (5, 4), (5, 3), (5, 2), (10, 10), (11, 11)):
        batch = batch_of(*lengths)
        assert company.suits(batch, batch.each(), run, "x")
    assert [shape for shape in seen if shape[0] > 1] == [(2, 4), (2, 5), (2, 5), (2, 11)]


def test_a_model_that_takes_texts_only_alone() -> None:
    def run(batch: Batch) -> Tensor:
        if len(batch.ids) > 1:
            raise RefusedError("together they don't run")
        return rows_of(batch)

    batch = batch_of(3, 2)
    with pytest.warns(AdaptzipWarning, match=TOLD):
        assert not Company().suits(batch, batch.each(), run, "x")

    def never(batch: Batch) -> Tensor:
        raise RefusedError("they don't run")

    # What is wrong with them is said where their outputs are wanted.
    assert Company().suits(batch, batch.each(), never, "x")


def test_one_text_of_a_batch_alone() -> None:
    ids = torch.arange(12).reshape(3, 4)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 1]]).bool()
    targets = torch.tensor([[5, 6, 7, NO_LABEL], [5, NO_LABEL, NO_LABEL, NO_LABEL], [1, 2, 3, 4]])
    found = list(Batch(ids, mask, targets, ids + 20, mask).each())
    assert [one.ids.tolist() for one in found] == [[[0, 1]], [[4, 5, 6, 7]], [[10, 11]]]
    assert [one.labels.tolist() for one in found if one.labels is not None] == [[[5, 6, 7]], [[5]], [[1, 2, 3, 4]]]
    assert all(one.types is not None and torch.equal(one.types, one.ids + 20) for one in found)
    assert all(one.mask.all() and one.scored is not None and one.scored.all() for one in found)
    # The labels of tokens are as long as the text.
    words = list(Batch(ids, mask, targets).each(words=True))
    assert [one.labels.tolist() for one in words if one.labels is not None] == [
        [[5, 6]],
        [[5] + [NO_LABEL] * 3],
        [[3, 4]],
    ]
