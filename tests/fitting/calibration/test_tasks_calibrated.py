"""Calibration on every task: what the modules are fed is what PEFT's model feeds them, text by text."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoModelForTokenClassification, AutoTokenizer

import adaptzip
from adaptzip.errors import CheckpointError, RefusedError, UsageError
from adaptzip.fitting.calibration import calibrate
from adaptzip.fitting.calibration.gradients import module_gradients
from adaptzip.fitting.calibration.moments import collect_moments
from adaptzip.models.texts.example import Example
from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, WORDS
from tests.cases.tasks import Task, classifier, language, trained
from tests.models.texts.test_examples import rows

PAIR = [Example("a b c", pair="d e"), Example("f", pair="a a b c")]
PLAIN = [Example(text) for text in TEXTS]
PROMPTS = [Example("a b", completion=" c d e"), Example("f e", completion=" b")]


def tokens(folder: Path) -> Task:
    config: dict[str, Any] = {"task_type": "TOKEN_CLS", "target_modules": ["query", "value"]}
    return trained(folder, tiny_peft.bert_tokens, AutoModelForTokenClassification, **config)


def seq2seq(folder: Path) -> Task:
    return trained(folder, tiny_peft.t5, AutoModelForSeq2SeqLM, task_type="SEQ_2_SEQ_LM", target_modules=["q", "v"])


def fed_by_peft(task: Task, inputs: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Mean square input of every module, as a share of the mean over modules."""
    model: Any = task.live()
    energy: dict[str, float] = {}
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A"):
            continue

        def add(_: object, args: tuple[Tensor, ...], name: str = name.removeprefix("base_model.model.")) -> None:
            energy[name] = energy.get(name, 0.0) + float(args[0].double().square().sum()) / args[0].shape[-1]

        module.register_forward_pre_hook(add)
    with torch.no_grad():
        for one in inputs:
            model(**one)
    mean = sum(energy.values()) / len(energy)
    return {name: value / mean for name, value in energy.items()}


def tokenised(task: Task, *texts: str) -> dict[str, Tensor]:
    found = AutoTokenizer.from_pretrained(task.base)(*texts, return_tensors="pt")
    return {key: found[key] for key in ("input_ids", "token_type_ids") if key in found and (texts[1:] or key[0] == "i")}


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("case", ["one output", "several labels", "pairs", "words", "completions", "to be written"])
def test_what_modules_are_fed(case: str, batch: int, tmp_path: Path) -> None:
    examples: Sequence[Example] = PLAIN
    if case == "one output":
        task = classifier(tmp_path, 1)
    elif case == "several labels":
        task = classifier(tmp_path, 3, "multi_label_classification")
    elif case == "pairs":
        task, examples = classifier(tmp_path, 3), PAIR
    elif case == "words":
        task, examples = tokens(tmp_path), [Example("a b", words=("a", "b")), Example("c d e")]
    elif case == "completions":
        task, examples = language(tmp_path), PROMPTS
    else:
        task, examples = seq2seq(tmp_path), PROMPTS
    asked = [tokenised(task, *filter(None, (e.text + (e.completion or ""), e.pair))) for e in examples]
    if case == "to be written":
        asked = [
            tokenised(task, e.text) | {"labels": tokenised(task, e.completion or "")["input_ids"]} for e in examples
        ]
    found = collect_moments(task.base, adaptzip.read(task.adapter), examples, batch=batch)
    assert {name: s.weight for name, s in found.items()} == pytest.approx(fed_by_peft(task, asked), rel=1e-4)


@pytest.mark.parametrize("case", ["one output", "several labels", "pairs", "to be written"])
def test_every_task_is_calibrated(case: str, tmp_path: Path) -> None:
    kinds = {"one output": (1, None), "several labels": (3, "multi_label_classification"), "pairs": (3, None)}
    task = classifier(tmp_path, *kinds[case]) if case in kinds else seq2seq(tmp_path)
    texts: list[dict[str, object]] = [{"body": text} for text in TEXTS]
    fields: dict[str, Any] = {"text_field": "body"}
    if case == "pairs":
        texts, fields["pair_field"] = [{"body": text, "other": text[::-1]} for text in TEXTS], "other"
    if case == "to be written":
        texts, fields["completion_field"] = [{"body": text, "other": text[::-1]} for text in TEXTS], "other"
    path = rows(tmp_path, *texts)
    adapter = adaptzip.read(task.adapter)
    found = calibrate(task.base, adapter, path, batch=2, **fields)
    assert found.distances["equal"] == 1
    assert all(0 < distance < 100 for distance in found.distances.values())
    assert set(found.importance) == set(adapter.modules)
    # The same texts under their usual names are the same.
    names = {"body": "text" if case != "to be written" else "prompt"}
    names["other"] = "text_pair" if case == "pairs" else "completion"
    usual = rows(tmp_path, *({names[key]: value for key, value in row.items()} for row in texts))
    assert calibrate(task.base, adapter, usual, batch=2).distances == found.distances


def test_what_a_model_does_not_read_is_refused_as_by_eval(tmp_path: Path) -> None:
    causal, texts = language(tmp_path / "a"), classifier(tmp_path / "b", 3)
    with pytest.raises(UsageError, match="a model for causal reads no pairs, as that of 'a b c'"):
        collect_moments(causal.base, adaptzip.read(causal.adapter), PAIR)
    with pytest.raises(UsageError, match="a model for classifier reads no completions, as that of 'a b'"):
        collect_moments(texts.base, adaptzip.read(texts.adapter), PROMPTS)
    written = seq2seq(tmp_path / "c")
    with pytest.raises(CheckpointError, match="some examples have a text to be written and some have none"):
        collect_moments(written.base, adaptzip.read(written.adapter), [*PROMPTS, *PLAIN])


def broken(task: Task) -> Task:
    """One token's embedding is no number."""
    path = task.base / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(("embed_tokens.weight", "word_embeddings.weight")))
    tensors[name][WORDS.index("f")] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    return task


@pytest.mark.parametrize("place", [0, 3])
def test_outputs_that_are_no_numbers_are_refused(place: int, tmp_path: Path) -> None:
    """Also where a text is not among those that the estimates are made from."""
    task = broken(classifier(tmp_path, 3))
    texts = ["a b", "a b c", "a b c d", "a b c d e"]
    texts[place] = texts[place].replace("b", "f")
    path = rows(tmp_path, *({"text": text} for text in texts))
    with pytest.raises(RefusedError, match=f"the outputs for the text '{texts[place]}' are not finite"):
        calibrate(task.base, adaptzip.read(task.adapter), path, batch=1)
    model = broken(language(tmp_path / "b"))
    modules = list(adaptzip.read(model.adapter).modules)
    with pytest.raises(RefusedError, match=f"the outputs for the text '{texts[place]}' are not finite"):
        module_gradients(model.base, texts, modules, batch=1)


def test_the_tokeniser_may_be_the_adapters(tmp_path: Path) -> None:
    task = language(tmp_path)
    adapter, own = adaptzip.read(task.adapter), tmp_path / "own"
    other = language(tmp_path / "other")
    shutil.copytree(other.base, own, ignore=shutil.ignore_patterns("model.safetensors"))
    # In this one all letters are others.
    text = (own / "tokenizer.json").read_text()
    (own / "tokenizer.json").write_text(text.replace('"a"', '"x"').replace('"b"', '"a"').replace('"x"', '"b"'))
    swapped = [Example(text.translate(str.maketrans("ab", "ba"))) for text in TEXTS]
    found = collect_moments(task.base, adapter, PLAIN, tokeniser=own)
    expected = collect_moments(task.base, adapter, swapped)
    assert {n: s.weight for n, s in found.items()} == {n: s.weight for n, s in expected.items()}
    gradients = module_gradients(task.base, PLAIN, list(adapter.modules), tokeniser=own)
    as_swapped = module_gradients(task.base, swapped, list(adapter.modules))
    assert all(bool((gradients[name] == as_swapped[name]).all()) for name in gradients)
