"""Tasks, dtypes and extras: tiny models, and adapters that PEFT made and saved for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoTokenizer, set_seed

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.models.kinds import Kind
from adaptzip.models.live.batches import Example
from tests.cases import oracle
from tests.cases.models_on_disk import save, set_tokeniser

TEXTS = ("a b c d e f", "b d f a", "c c <pad> a b", "f e d c b a a b", "e a", "d d d b a c e", "c a", "f b e")
_REPORT = 100
TARGETS = ("f e", "a b c d e", "c", "b b a", "d e f", "a", "c f d", "e e b a")
_SIZES: dict[str, float] = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
_SIZES |= {"num_attention_heads": 2, "initializer_range": 0.2}
_LLAMA = {**_SIZES, "num_key_value_heads": 1, "attention_bias": True, "pad_token_id": 0}
_BERT = {**_SIZES, "max_position_embeddings": 16, "pad_token_id": 0}
_T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
_BART: dict[str, float] = {
    f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 24))
}
_BART |= {
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "d_model": 16,
    "max_position_embeddings": 16,
    "init_std": 0.2,
}


@dataclass(frozen=True)
class Task:
    """What a model is for, and one of its kind.

    Attributes:
        architecture, head: the parts of the class's name.
        config: of the model.
        task_type: PEFT's.
        target: modules that have an update.
        saved: by the kind of extras, the module of which PEFT trains a copy.
        tied: whether the head may be tied to the embedding.
        biases: whether there are any.
    """

    kind: Kind
    architecture: str
    head: str
    config: Mapping[str, Any]
    task_type: str
    target: Sequence[str]
    saved: Mapping[str, str]
    tied: bool = False
    biases: bool = True

    @property
    def model_class(self) -> Any:
        return getattr(transformers, f"{self.architecture}{self.head}")

    def make(self, *, tied: bool) -> nn.Module:
        """A model with random weights."""
        set_seed(0)
        options = {"tie_word_embeddings": tied} if self.tied else {}
        made: nn.Module = self.model_class(
            getattr(transformers, f"{self.architecture}Config")(**self.config, **options)
        )
        return made


_OF_LLAMA = {"head": "norm", "embedding": "embed_tokens"}
_OF_BERT = {"head": "LayerNorm", "embedding": "word_embeddings"}
_CLASSES = "ForSequenceClassification"
_QV, _QUERY = ("q_proj", "v_proj"), ("query", "value")
_SAVED_HEAD = {**_OF_LLAMA, "head": "lm_head"}

TASKS: Mapping[str, Task] = {
    "causal": Task("causal", "Llama", "ForCausalLM", _LLAMA, "CAUSAL_LM", _QV, _SAVED_HEAD, tied=True),
    "t5": Task(
        "seq2seq", "T5", "ForConditionalGeneration", {**_T5, "decoder_start_token_id": 0}, "SEQ_2_SEQ_LM", ("q", "v"),
        {"head": "lm_head", "embedding": "shared"}, tied=True, biases=False,
    ),
    "bart": Task(
        "seq2seq", "Bart", "ForConditionalGeneration", _BART, "SEQ_2_SEQ_LM", (*_QV, "fc1"),
        {"head": "lm_head", "embedding": "shared"}, tied=True,
    ),
    "one score": Task("scores", "Llama", _CLASSES, {**_LLAMA, "num_labels": 1}, "SEQ_CLS", _QV, _OF_LLAMA),
    "two classes": Task("classifier", "Bert", _CLASSES, {**_BERT, "num_labels": 2}, "SEQ_CLS", _QUERY, _OF_BERT),
    "five classes": Task("classifier", "Llama", _CLASSES, {**_LLAMA, "num_labels": 5}, "SEQ_CLS", _QV, _OF_LLAMA),
    "several labels": Task(
        "multilabel", "Roberta", _CLASSES, {**_BERT, "num_labels": 3, "problem_type": "multi_label_classification"},
        "SEQ_CLS", _QUERY, _OF_BERT,
    ),
    "tokens": Task(
        "tokens", "Roberta", "ForTokenClassification", {**_BERT, "num_labels": 3}, "TOKEN_CLS", _QUERY, _OF_BERT
    ),
    "embeddings": Task("encoder", "Bert", "Model", _BERT, "FEATURE_EXTRACTION", _QUERY, _OF_BERT),
}  # fmt: skip
EXTRAS = ("none", "head", "embedding", "rows", "all biases", "own biases")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Cell:
    """One of the adapters."""

    task: str
    tied: bool
    dtype: str
    extras: str

    @property
    def possible(self) -> bool:
        task = TASKS[self.task]
        return (task.tied or not self.tied) and (task.biases or "biases" not in self.extras)

    def __str__(self) -> str:
        return f"{self.task}, {'tied' if self.tied else 'untied'}, {self.dtype}, {self.extras}"

    def lora(self, **own: Any) -> LoraConfig:
        """PEFT's configuration, with fields of one's own."""
        task = TASKS[self.task]
        more: dict[str, Any] = {}
        if self.extras in task.saved:
            more["modules_to_save"] = [task.saved[self.extras]]
        elif self.extras == "rows":
            more["trainable_token_indices"] = [3, 5, 6]
        elif self.extras != "none":
            more["bias"] = "all" if self.extras == "all biases" else "lora_only"
        usual = {"r": 3, "lora_alpha": 6, "task_type": task.task_type, "target_modules": list(task.target)}
        return LoraConfig(**{**usual, **more, **own})


@dataclass(frozen=True)
class Made:
    """A cell in files.

    Attributes:
        base: the model.
        adapter, other: two adapters of it.
    """

    cell: Cell
    base: Path
    adapter: Path
    other: Path

    @property
    def task(self) -> Task:
        return TASKS[self.cell.task]

    @cached_property
    def labels(self) -> Sequence[Any]:
        """As the oracle takes them."""
        kind, outputs = self.task.kind, self.task.config.get("num_labels", 0)
        made: Mapping[str, Callable[[int, str], Any]] = {
            "seq2seq": lambda place, _: TARGETS[place],
            "scores": lambda place, _: [0.5 * place - 1.25],
            "classifier": lambda place, _: (3 * place + place // 2) % outputs,
            "multilabel": lambda place, _: [(place >> bit) & 1 for bit in range(outputs)],
            "tokens": lambda place, text: [(place + i) % outputs for i in range(len(text.split()))],
        }
        give = made.get(kind)
        return [None if give is None else give(place, text) for place, text in enumerate(TEXTS)]

    def examples(self) -> list[Example]:
        """The same as data."""
        found = []
        for text, label in zip(TEXTS, self.labels, strict=True):
            found.append(Example(text, label=tuple(label) if isinstance(label, list) else label))
        return found

    def pad_at(self, side: str) -> None:
        """The side at which the tokeniser pads."""
        set_tokeniser(self.base, padding_side=side)
        assert AutoTokenizer.from_pretrained(self.base).padding_side == side

    def outputs(
        self, adapter: Path, places: Sequence[int] = range(len(TEXTS)), *, updates: bool = True
    ) -> oracle.Outputs:
        """What PEFT makes of the texts at these places."""
        model = oracle.live(self.task.model_class, self.base, adapter, updates=updates)
        texts, labels = [TEXTS[place] for place in places], [self.labels[place] for place in places]
        return oracle.outputs(self.task.kind, model, self.base, texts, labels)


def make(cell: Cell, folder: Path, **lora: Any) -> Made:
    """Write the base and two adapters, with fields of their configuration."""
    task = TASKS[cell.task]
    base = save(lambda: task.make(tied=cell.tied).to(getattr(torch, cell.dtype)), folder / "base")
    for seed, name in ((1, "adapter"), (2, "other")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(task.model_class.from_pretrained(base), cell.lora(**lora))
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
            model.save_pretrained(folder / name)
    return Made(cell, base, folder / "adapter", folder / "other")


def tight_budget(adapter: Path) -> str:
    """Room for a coarse fit, and for what a file says of its training."""
    return f"{writer.size(adaptzip.compress(adapter, max_error=0.5)) + _REPORT}B"


Setting = tuple[Cell, str, int]
"""A cell, the side at which its tokeniser pads, and how many texts are run together."""


def cells() -> list[Cell]:
    """All that there are."""
    every = (Cell(*parts) for parts in product(TASKS, (False, True), DTYPES, EXTRAS))
    return [cell for cell in every if cell.possible]


def pairwise() -> Iterator[Setting]:
    """Settings in which any two values of two different properties come together where they can."""
    left = list(product(cells(), ("left", "right"), (1, 8)))
    uncovered = {pair for setting in left for pair in _pairs(setting)}
    while uncovered:
        best = max(left, key=lambda setting: len(uncovered & _pairs(setting)))
        uncovered -= _pairs(best)
        yield best


def _pairs(setting: Setting) -> set[tuple[tuple[int, object], tuple[int, object]]]:
    cell, side, batch = setting
    values = (cell.task, cell.tied, cell.dtype, cell.extras, side, batch)
    return set(combinations(enumerate(values), 2))
