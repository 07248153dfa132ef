"""Words, types and added tokens are those that transformers' tokenisers tell, as PEFT's models are run on them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertForTokenClassification,
    DebertaV2Tokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLNetForSequenceClassification,
    XLNetForTokenClassification,
)

import adaptzip
from adaptzip.errors import AdaptzipWarning
from adaptzip.models.live.batches import Example, encode
from adaptzip.models.live.running import load_bare, load_base
from adaptzip.models.texts.tokenisers import load_tokeniser
from adaptzip.reports.evaluation import NOTHING, TEACHER
from tests.cases import oracle, tiny_peft
from tests.cases.architectures import build
from tests.cases.models_on_disk import TEXTS, WORDS, set_tokeniser
from tests.cases.tasks import Task, bert, language, llama, trained

CPU = torch.device("cpu")
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
LISTS = (("a", "b", "ab"), ("b", "東", "a"), ("ab", "b", "b", "a"), ("b",), ("", "a b", "b"))
NAMES = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>"}
NEW = "the adapter adds 2 tokens, which the tokeniser does not know"


def deberta() -> Any:
    """Puts a blank by itself before words that it does not know with one."""
    pieces = [*SPECIAL, "▁", "▁a", "a", "b", "ab"]
    return DebertaV2Tokenizer(vocab=[(piece, -1.0) for piece in pieces], **NAMES)


def metaspace() -> Any:
    inner = Tokenizer(models.Unigram([(piece, -1.0) for piece in (*SPECIAL, "▁", "▁a", "a", "b", "ab")], 3))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, **NAMES)


def gemma() -> Any:
    """Knows the blanks of a text alone, and puts none before its first word."""
    vocabulary = {piece: i for i, piece in enumerate((*SPECIAL, "▁", "a", "b", "▁a", "ab"))}
    inner = Tokenizer(models.BPE(vocabulary, [("▁", "a"), ("a", "b")], unk_token="<unk>"))
    inner.normalizer = normalizers.Replace(" ", "▁")
    return PreTrainedTokenizerFast(tokenizer_object=inner, **NAMES)


def roberta() -> Any:
    vocabulary = {piece: i for i, piece in enumerate((*SPECIAL, "Ġ", "a", "b", "Ġa", "ab", *"æĿ±"))}
    return RobertaTokenizer(vocab=vocabulary, merges=[("Ġ", "a"), ("a", "b")])


def of_words(folder: Path, tokeniser: Any) -> Task:
    def make() -> Any:
        tiny_peft.set_seed(0)
        return BertForTokenClassification(bert(3)().config)

    config: dict[str, Any] = {"task_type": "TOKEN_CLS", "target_modules": ["query", "value"]}
    task = trained(folder, make, BertForTokenClassification, **config)
    tokeniser.save_pretrained(task.base)
    return task


def first_tokens(owners: Sequence[int | None]) -> dict[int, int]:
    """Where each word begins."""
    return {owner: place for place, owner in reversed([*enumerate(owners)]) if owner is not None}


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(
    ("make", "options"),
    [(deberta, {}), (metaspace, {}), (gemma, {}), (roberta, {"add_prefix_space": True})],
)
def test_lists_of_words_are_read_as_transformers_reads_them(
    make: Callable[[], Any], options: Mapping[str, Any], batch: int, tmp_path: Path
) -> None:
    task = of_words(tmp_path, make())
    tokeniser: Any = AutoTokenizer.from_pretrained(task.base, **options)
    assert type(tokeniser) is type(make())
    found = [tokeniser(list(words), is_split_into_words=True) for words in LISTS]

    def rows(model: Any) -> Tensor:
        with torch.no_grad():
            return torch.cat([model(input_ids=torch.tensor([e["input_ids"]])).logits[0] for e in found]).double()

    teacher, bare = (rows(oracle.live(task.loads, task.base, task.adapter, updates=on)) for on in (True, False))
    # Every word is labelled with what the teacher says of its first token, and all other tokens with nothing.
    labels, examples, at = torch.full((len(teacher),), -100), [], 0
    for words, one in zip(LISTS, found, strict=True):
        classes = [0] * len(words)
        for word, place in first_tokens(one.word_ids()).items():
            classes[word] = int(teacher[at + place].argmax())
            labels[at + place] = classes[word]
        examples.append(Example(" ".join(words), tuple(classes), words=words))
        at += len(one["input_ids"])
    measured = adaptzip.evaluate(task.base, task.adapter, {}, examples, batch=batch).rows
    assert measured[TEACHER].metric == 1.0
    expected = oracle.numbers("tokens", oracle.Outputs(teacher, labels), oracle.Outputs(bare, labels))
    for figure, value in expected.items():
        assert getattr(measured[NOTHING], figure) == pytest.approx(value, rel=1e-5), figure


@pytest.mark.parametrize("make", [deberta, metaspace, roberta])
def test_blanks_by_themselves_are_of_the_word_after_them(make: Callable[[], Any], tmp_path: Path) -> None:
    make().save_pretrained(tmp_path)
    tokens = load_tokeniser(tmp_path)
    ids, _, owners = tokens.encode_words(["a", "b", "東", "ab"], listed=False)
    assert ids == AutoTokenizer.from_pretrained(tmp_path)("a b 東 ab")["input_ids"]
    names = [tokens.token(i) for i in ids]
    assert [names[place] in ("▁", "Ġ") for place in (first_tokens(owners)[word] for word in (1, 2))] == [True, True]
    assert {names[place] for place, owner in enumerate(owners) if owner is None} == {names[0], names[-1]}
    assert [owner for owner in owners if owner is not None] == sorted(owner for owner in owners if owner is not None)


def test_words_run_together_only_where_the_tokeniser_says_so(tmp_path: Path) -> None:
    for name, make in (("a", roberta), ("b", gemma)):
        make().save_pretrained(tmp_path / name)
    listed = [load_tokeniser(tmp_path / name).encode_words(["a", "a"])[0] for name in "ab"]
    assert listed == [[0, 8, 8, 2], [6, 6]]
    joined = [load_tokeniser(tmp_path / name).encode_words(["a", "a"], listed=False)[0] for name in "ab"]
    assert joined == [[0, 6, 8, 2], [6, 8]]


def xlnet(folder: Path, head: str, loads: Any, task_type: str) -> Task:
    """Its tokeniser gives a text's last token another type."""
    architecture = build("XLNet", head, "classifier" if task_type == "SEQ_CLS" else "tokens").model
    for parameter in architecture.parameters():
        parameter.data *= 4
    config: dict[str, Any] = {"task_type": task_type, "target_modules": ["layer_1"]}
    task = trained(folder, lambda: architecture, loads, **config)
    tokeniser = AutoTokenizer.from_pretrained(task.base)
    tokeniser.backend_tokenizer.post_processor = processors.TemplateProcessing("$A <s>:2", special_tokens=[("<s>", 1)])
    tokeniser.save_pretrained(task.base)
    set_tokeniser(task.base, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    return task


@pytest.mark.filterwarnings("ignore:.*its texts are run one at a time")
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("words", [False, True])
def test_single_texts_keep_their_types(words: bool, batch: int, tmp_path: Path) -> None:
    loads, head, named = (
        (XLNetForTokenClassification, "ForTokenClassification", "TOKEN_CLS")
        if words
        else (XLNetForSequenceClassification, "ForSequenceClassification", "SEQ_CLS")
    )
    task = xlnet(tmp_path, head, loads, named)
    tokeniser = AutoTokenizer.from_pretrained(task.base)
    assert tokeniser("a b")["token_type_ids"] == [0, 0, 2]

    def rows(updates: bool, *, typed: bool = True) -> Tensor:
        model: Any = oracle.live(loads, task.base, task.adapter, updates=updates)
        with torch.no_grad():
            found = [
                model(**{k: e[k] for k in ("input_ids", "token_type_ids")[: 1 + typed]}).logits
                for e in (tokeniser(text, return_tensors="pt") for text in TEXTS)
            ]
        return torch.cat([part.flatten(0, -2) for part in found]).double()

    teacher, bare = rows(True), rows(False)
    assert (teacher - rows(True, typed=False)).abs().max() > 1e-3
    labels = torch.zeros(len(teacher), dtype=torch.int64)
    expected = oracle.numbers("tokens", oracle.Outputs(teacher, labels), oracle.Outputs(bare, labels))["kl"]
    for examples in ([Example(t) for t in TEXTS], [Example(t, words=tuple(t.split())) for t in TEXTS]):
        if words or not examples[0].words:
            found = adaptzip.evaluate(task.base, task.adapter, {}, examples, batch=batch).rows[NOTHING]
            assert found.kl == pytest.approx(expected, rel=1e-5)


def test_types_are_kept_from_models_that_take_none(tmp_path: Path) -> None:
    task = language(tmp_path)
    set_tokeniser(task.base, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    loaded = load_base(task.base, [], CPU)
    texts = encode(loaded, [Example("a b", completion=" c")], max_tokens=9)
    assert texts[0].types == (0, 0, 0)
    assert loaded.encoded_batch(texts).types is None


def enlarged(folder: Path) -> Task:
    """Two tokens more than the base has, which only the adapter's embeddings tell of."""

    def make() -> Any:
        return llama(vocab_size=len(WORDS), tie_word_embeddings=False)()

    def grown() -> Any:
        model: Any = make()
        model.resize_token_embeddings(len(WORDS) + 2, mean_resizing=False)
        return model

    more: dict[str, Any] = {"modules_to_save": ["embed_tokens", "lm_head"], "target_modules": ["q_proj"]}
    task = trained(folder, grown, LlamaForCausalLM, task_type="CAUSAL_LM", **more)
    make().save_pretrained(task.base)
    return task


def told(task: Task, teacher: object) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adaptzip.evaluate(task.base, teacher, {"again": task.adapter}, [Example(text) for text in TEXTS])  # type: ignore[arg-type]
    return [str(w.message) for w in caught if issubclass(w.category, AdaptzipWarning) and "tokens" in str(w.message)]


def test_tokens_that_the_tokeniser_does_not_know_are_told_of_once(tmp_path: Path) -> None:
    task = enlarged(tmp_path)
    adapter = adaptzip.read(task.adapter)
    adaptzip.compress(adapter, lossless=True, output=tmp_path / "a.adz")
    for teacher in (adapter, tmp_path / "a.adz"):
        (message,) = told(task, teacher)
        assert message.startswith(NEW)
    tokeniser = AutoTokenizer.from_pretrained(task.base)
    tokeniser.add_tokens(["<u>", "<b>"])
    tokeniser.save_pretrained(task.adapter)
    assert told(task, task.adapter) == []
    plain = language(tmp_path / "plain", modules_to_save=["embed_tokens"])
    assert told(plain, adaptzip.read(plain.adapter)) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error", AdaptzipWarning)
        load_bare(task.base, replace(adapter, modules={}), CPU)
