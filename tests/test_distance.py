"""Teacher and student: how far apart they are in what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertModel

import adaptzip
from adaptzip.core.adapter import Adapter
from adaptzip.errors import CheckFailedError
from benchmarks.distance import distance
from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, adapter, head, save
from tests.cases.tasks import classifier


def shrunk(lora: Adapter, by: float) -> Adapter:
    return replace(lora, modules={name: replace(m, B=m.B * by) for name, m in lora.modules.items()})


def test_kl_of_next_tokens_by_hand(tmp_path: Path) -> None:
    base = save(tiny_peft.llama, tmp_path)
    teacher = adapter(tiny_peft.llama(), "v_proj")
    found = distance(base, teacher, shrunk(teacher, 0.5), TEXTS[:1])
    logits = []
    for share in (1.0, 0.5):
        model = tiny_peft.llama().eval()
        for name, module in teacher.modules.items():
            model.get_submodule(name).weight.data += share * module.delta()
        ids = torch.tensor([[1 + "abcdef".index(c) + 1 for c in TEXTS[0].split()]])
        logits.append(model(input_ids=ids).logits[0].detach().double().log_softmax(1))
    expected = (logits[0].exp() * (logits[0] - logits[1])).sum(1).mean()
    assert found.kind == "causal"
    assert found.samples == 6
    assert found.kl == pytest.approx(float(expected), rel=1e-4)


def test_an_adapter_is_no_distance_from_itself_and_more_the_more_it_differs(tmp_path: Path) -> None:
    base = save(tiny_peft.bert, tmp_path)
    teacher = head(adapter(tiny_peft.bert(), "query", "value", "output.dense"))
    kls = [distance(base, teacher, shrunk(teacher, by), TEXTS).kl for by in (1.0, 0.9, 0.5)]
    assert kls[0] == pytest.approx(0.0, abs=1e-12)
    assert kls[0] < kls[1] < kls[2]  # type: ignore[operator]


def test_a_student_without_a_head_is_given_the_teachers(tmp_path: Path) -> None:
    base = save(tiny_peft.bert, tmp_path)
    teacher = head(adapter(tiny_peft.bert(), "value"))
    bare = Adapter(shrunk(teacher, 0.5).modules)
    assert distance(base, teacher, bare, TEXTS) == distance(base, teacher, shrunk(teacher, 0.5), TEXTS)


def test_embeddings_are_compared_by_angle_and_length(tmp_path: Path) -> None:
    config = tiny_peft.bert().config
    base = save(lambda: BertModel(config), tmp_path)
    teacher = adapter(BertModel(config), "value")
    found = distance(base, teacher, shrunk(teacher, 0.2), TEXTS)
    assert found.kind == "encoder"
    assert found.kl is None
    assert found.agreement is None
    assert found.cosine is not None
    assert found.relative is not None
    assert 0 < found.cosine < found.relative < 1


def test_scores_agree_in_no_decision(tmp_path: Path) -> None:
    task = classifier(tmp_path, 1)
    teacher = adaptzip.read(task.adapter)
    found = distance(task.base, teacher, shrunk(teacher, 0.2), TEXTS)
    assert found.agreement is None
    assert found.kl


def test_no_token_at_all(tmp_path: Path) -> None:
    base = save(tiny_peft.llama, tmp_path)
    lora = adapter(tiny_peft.llama(), "v_proj")
    with pytest.raises(CheckFailedError, match="none of the texts has a token"):
        distance(base, lora, lora, [])
