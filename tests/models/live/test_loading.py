"""Base models and tokenisers from folders, and what is said when they do not fit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.models.live.running import load_base, load_teacher, sample_texts
from adaptzip.models.texts.tokenisers import load_tokeniser
from benchmarks.stories import story_model
from tests.cases import tiny_peft
from tests.cases.models_on_disk import TEXTS, adapter, head, save

CPU = torch.device("cpu")


def test_a_tokeniser_of_llama2c_is_named(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="has no tokeniser that transformers reads, so that"):
        load_tokeniser(tmp_path)
    (tmp_path / "tokenizer.bin").write_bytes(b"")
    with pytest.raises(RefusedError, match="reads but tokenizer.bin, which is llama2.c's, so that") as caught:
        load_tokeniser(tmp_path)
    assert "tokenizer.json" in str(caught.value.hint)


def test_the_story_models_own_tokens(material: Path, tmp_path: Path) -> None:
    tokens = load_tokeniser(story_model(material, tmp_path))
    found = tokens.encode("Once upon a time, there was a little girl named Lily.\n")
    assert found == [1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 13]
    assert (tokens.size, tokens.start, tokens.end) == (512, 1, 1)
    for text in ("a  b\n", "\u00e9", "\U0001f600"):
        assert tokens.decode(tokens.encode(text)) == text


@pytest.mark.parametrize(("make", "kind"), [(tiny_peft.llama, "causal"), (tiny_peft.gpt2, "causal")])
def test_a_causal_model_is_told_by_its_config(make: object, kind: str, tmp_path: Path) -> None:
    base = save(make, tmp_path)  # type: ignore[arg-type]
    assert load_base(base, [], CPU).kind == kind


def test_the_adapter_is_on_it_as_peft_puts_it(tmp_path: Path) -> None:
    trained = tiny_peft.train(tiny_peft.bert(), tmp_path / "a", target_modules=["query", "value"], task_type="SEQ_CLS")
    from adaptzip.restoring.reading import read

    base = save(tiny_peft.bert, tmp_path / "base")
    loaded = load_teacher(base, read(tmp_path / "a"), CPU)
    state = loaded.model.state_dict()
    assert loaded.kind == "classifier"
    for name, tensor in trained.merged.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-6, atol=1e-7)


def test_a_head_over_a_bare_encoder(tmp_path: Path) -> None:
    from transformers import BertModel

    base = save(lambda: BertModel(tiny_peft.bert().config), tmp_path)
    lora = head(adapter(tiny_peft.bert(), "query"), classes=5)
    loaded = load_teacher(base, lora, CPU)
    assert loaded.kind == "classifier"
    (batch,) = loaded.batches(TEXTS, 8, 64)
    assert loaded(batch).shape == (len(TEXTS), 5)
    weight = loaded.model.state_dict()["classifier.weight"]
    assert torch.equal(weight, lora.extras["base_model.model.classifier.weight"])


def test_half_a_head_is_refused(tmp_path: Path) -> None:
    from transformers import BertModel

    base = save(lambda: BertModel(tiny_peft.bert().config), tmp_path)
    full = head(adapter(tiny_peft.bert(), "query"))
    extras: dict[str, Tensor] = {k: v for k, v in full.extras.items() if "weight" in k}
    with pytest.raises(RefusedError, match="classifier.bias, which BertForSequenceClassification has, is neither"):
        load_teacher(base, resolved(Adapter(full.modules, extras, full.meta)), CPU)


def test_texts_are_cut_and_padded(tmp_path: Path) -> None:
    loaded = load_base(save(tiny_peft.gpt2, tmp_path), [], CPU)
    first, second = loaded.batches(TEXTS, 4, 5)
    assert first.ids.shape == (4, 5)
    assert first.mask.sum(1).tolist() == [2, 4, 5, 5]
    assert int(first.ids[~first.mask].abs().sum()) == 0
    assert second.tokens == 10
    assert loaded.batches(["a " * 40], 4, 500)[0].tokens == 16


def test_a_text_that_is_cut_keeps_its_special_tokens(tmp_path: Path) -> None:
    from tokenizers import processors
    from transformers import AutoTokenizer

    folder = save(tiny_peft.bert, tmp_path)
    tokeniser = AutoTokenizer.from_pretrained(folder)
    tokeniser.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A <s>", special_tokens=[("<s>", 1)]
    )
    tokeniser.save_pretrained(folder)
    tokens = load_tokeniser(folder)
    assert tokens.encode("a b c d") == [1, 2, 3, 4, 5, 1]
    assert tokens.encode("a b c d", 4) == [1, 2, 3, 1]
    assert tokens.encode_target("a b c d", 3) == [1, 2, 1]
    for listed in (True, False):
        found = tokens.encode_words(["ab", "c,d"], 5, listed=listed)
        assert found == ([1, 1, 4, 1, 1], [], [None, 0, 1, 1, None])
    assert load_base(folder, [], CPU).batches(["a b c d"], 1, 4)[0].ids.tolist() == [[1, 2, 3, 1]]


def test_positions_before_the_first_are_not_counted(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaModel

    sizes = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    config = RobertaConfig(vocab_size=32, max_position_embeddings=10, pad_token_id=1, **sizes)
    loaded = load_base(save(lambda: RobertaModel(config), tmp_path), [], CPU)
    assert loaded.longest(99) == 8
    (batch,) = loaded.batches(["a " * 20, "b"], 2, 99)
    assert loaded(batch).shape == (2, 16)
    assert batch.ids[0].tolist() == [3] + [1] * 7


def test_sampled_texts_keep_their_order() -> None:
    texts = [str(i) for i in range(50)]
    found = sample_texts(texts, 20, 3)
    assert found == sorted(found, key=int)
    assert len(set(found)) == 20
    assert found == sample_texts(texts, 20, 3) != sample_texts(texts, 20, 4)
    assert sample_texts(texts, 60, 0) == texts


@pytest.mark.parametrize("content", [None, {}, {"model_type": "nothing-known"}])
def test_a_folder_that_is_no_model_is_named(content: object, tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    if content is not None:
        (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(BaseModelError) as caught:
        load_base(tmp_path, [], CPU)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BaseModelError, match="does not exist"):
        load_base(tmp_path / "missing", [], CPU)


def test_another_base_is_told_apart(tmp_path: Path) -> None:
    base = save(tiny_peft.llama, tmp_path)
    name = "model.layers.0.self_attn.q_proj"
    with pytest.raises(BaseModelError, match=rf"the layer {name} is \[16, 16\], the adapter's update \[16, 8\]"):
        load_teacher(base, Adapter({name: LoraFactors(torch.ones(2, 8), torch.ones(16, 2))}), CPU)


def test_a_model_without_tokeniser_is_refused(tmp_path: Path) -> None:
    tiny_peft.llama().save_pretrained(tmp_path)
    with pytest.raises(RefusedError, match="has no tokeniser"):
        load_base(tmp_path, [], CPU)


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = save(tiny_peft.llama, tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(RefusedError, match="needs the package transformers") as caught:
        load_base(base, [], CPU)
    assert caught.value.hint == "pip install 'adaptzip[distill]'"


def test_a_bias_that_has_no_place_is_refused(tmp_path: Path) -> None:
    folder = save(tiny_peft.llama, tmp_path)
    A, B = torch.zeros(1, 32), torch.zeros(16, 1)
    update = LoraFactors(A, B, 1.0, "embedding", bias=torch.ones(16))
    with pytest.raises(BaseModelError, match="the layer model.embed_tokens has no place for the bias"):
        load_teacher(folder, Adapter({"model.embed_tokens": update}), CPU)
