"""Models of many architectures put out what PEFT's live model does, one text at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.errors import RefusedError
from adaptzip.models.kinds import Kind
from adaptzip.models.live.running import load_teacher
from adaptzip.restoring.reading import read
from tests.cases import tiny_peft
from tests.cases.tasks import Task, trained
from tests.cases.teachers import CPU

ROWS = ([2, 3, 4, 5, 1], [7, 3, 6, 1])
SIZES: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
}  # fmt: skip
LABELLED = {**SIZES, "num_labels": 3, "max_position_embeddings": 20}
STATES = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}
VISION = {**SIZES, "image_size": 28, "patch_size": 14}
T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "cls_token_id": 1, "sep_token_id": 1}


def t5(**more: Any) -> tf.T5Config:
    return tf.T5Config(**T5, decoder_start_token_id=0, num_labels=3, **more)


def llava() -> Any:
    text = tf.LlamaConfig(num_key_value_heads=1, **SIZES)
    config = tf.LlavaConfig(text_config=text, vision_config=tf.CLIPVisionConfig(**VISION), image_token_index=31)
    return tf.LlavaForConditionalGeneration(config)


def qwen_vl() -> Any:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2}
    tokens = {"image_token_id": 30, "video_token_id": 29, "vision_start_token_id": 28, "vision_end_token_id": 27}
    text = {**SIZES, "num_key_value_heads": 1, "rope_parameters": rope}
    return tf.Qwen2VLForConditionalGeneration(tf.Qwen2VLConfig(text_config=text, vision_config=vision, **tokens))


CASES: dict[str, tuple[Callable[[], Any], list[str], str | None, Kind]] = {
    "mamba": (lambda: tf.MambaForCausalLM(tf.MambaConfig(**STATES)), ["x_proj"], "CAUSAL_LM", "causal"),
    "falcon mamba": (
        lambda: tf.FalconMambaForCausalLM(tf.FalconMambaConfig(**STATES)),
        ["in_proj"],
        "CAUSAL_LM",
        "causal",
    ),
    "rwkv": (
        lambda: tf.RwkvForCausalLM(tf.RwkvConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2)),
        ["key"],
        "CAUSAL_LM",
        "causal",
    ),
    "llava": (llava, ["q_proj"], "CAUSAL_LM", "causal"),
    "qwen vl": (qwen_vl, ["q_proj"], "CAUSAL_LM", "causal"),
    "a decoder of BERT's": (
        lambda: tf.BertLMHeadModel(tf.BertConfig(is_decoder=True, **SIZES)),
        ["query"],
        "CAUSAL_LM",
        "causal",
    ),
    "t5 classifier": (lambda: tf.T5ForSequenceClassification(t5()), ["q"], "SEQ_CLS", "classifier"),
    "t5 tokens": (lambda: tf.T5ForTokenClassification(t5()), ["q"], "TOKEN_CLS", "tokens"),
    "t5 encoder": (lambda: tf.T5EncoderModel(tf.T5Config(**T5)), ["q"], "FEATURE_EXTRACTION", "encoder"),
    "llama tokens": (
        lambda: tf.LlamaForTokenClassification(tf.LlamaConfig(num_key_value_heads=1, num_labels=3, **SIZES)),
        ["q_proj"],
        "TOKEN_CLS",
        "tokens",
    ),
    "deberta": (
        lambda: tf.DebertaV2ForSequenceClassification(tf.DebertaV2Config(**LABELLED)),
        ["query_proj"],
        "SEQ_CLS",
        "classifier",
    ),
    "modernbert": (
        lambda: tf.ModernBertForSequenceClassification(tf.ModernBertConfig(**{**LABELLED, **ENDS})),
        ["Wqkv"],
        "SEQ_CLS",
        "classifier",
    ),
    "electra": (
        lambda: tf.ElectraForSequenceClassification(tf.ElectraConfig(embedding_size=16, **LABELLED)),
        ["query"],
        "SEQ_CLS",
        "classifier",
    ),
    "masked language model": (lambda: tf.BertForMaskedLM(tf.BertConfig(**SIZES)), ["query"], None, "encoder"),
}


def seeded(make: Callable[[], Any]) -> Callable[[], Any]:
    """The same model each time, with weights large enough for updates to matter."""

    def made() -> Any:
        tiny_peft.set_seed(0)
        model = make()
        for parameter in model.parameters():
            parameter.data *= 2 if parameter.ndim > 1 else 1
        return model

    return made


def live(task: Task, make: Callable[[], Any], kind: Kind) -> list[Tensor]:
    """PEFT's logits, or the mean of its last hidden states, of every text by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(type(make()).from_pretrained(task.base), task.adapter).eval()
    found = []
    for row in ROWS:
        with torch.no_grad():
            output = model(input_ids=torch.tensor([row]), output_hidden_states=kind == "encoder")
        states = output.hidden_states[-1] if kind == "encoder" else None
        found.append(output.logits[0] if states is None else states.mean(1)[0])
    return found


@pytest.mark.parametrize("case", CASES)
def test_as_pefts_live_model(case: str, tmp_path: Path) -> None:
    make, modules, name, kind = CASES[case]
    config: dict[str, Any] = {"target_modules": modules} | ({} if name is None else {"task_type": name})
    task = trained(tmp_path, seeded(make), None, **config)
    loaded = load_teacher(task.base, read(task.adapter), CPU)
    assert loaded.kind == kind
    for row, expected in zip(ROWS, live(task, make, kind), strict=True):
        found = loaded(loaded.batch([row]))
        torch.testing.assert_close(found.reshape(expected.shape), expected, atol=1e-5, rtol=1e-5)


def renamed(task: Task, old: str, new: str) -> Task:
    """The adapter with other names."""
    path = task.adapter / "adapter_model.safetensors"
    tensors = {key.replace(old, new): tensor for key, tensor in load_file(path).items()}
    save_file(tensors, path)
    return task


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.language_model.layers", "language_model.model.layers"),
        ("base_model.model.", "base_model.model.base_model.model."),
    ],
    ids=["transformers 4", "twice"],
)
@pytest.mark.filterwarnings("ignore:.*keys are not as PEFT saves them:adaptzip.errors.AdaptzipWarning")
def test_names_with_another_prefix(old: str, new: str, tmp_path: Path) -> None:
    config: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj"]}
    task = trained(tmp_path, seeded(llava), None, **config)
    expected = live(task, llava, "causal")
    loaded = load_teacher(task.base, read(renamed(task, old, new).adapter), CPU)
    for row, logits in zip(ROWS, expected, strict=True):
        torch.testing.assert_close(loaded(loaded.batch([row])), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tf.BertForNextSentencePrediction(tf.BertConfig(**SIZES)), "is a BertForNextSentencePrediction"),
        (lambda: tf.BertForMultipleChoice(tf.BertConfig(**SIZES)), "is a BertForMultipleChoice"),
        (lambda: tf.LlamaForQuestionAnswering(tf.LlamaConfig(num_key_value_heads=1, **SIZES)), "ForQuestionAnswering"),
    ],
)
def test_heads_that_are_not_compared(make: Callable[[], Any], said: str, tmp_path: Path) -> None:
    task = trained(tmp_path, make, None, target_modules=["query", "q_proj"])
    with pytest.raises(RefusedError, match=said):
        load_teacher(task.base, read(task.adapter), CPU)
