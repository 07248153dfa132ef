"""Writers on the 260k story model: one speaker of Shakespeare, one restaurant, one class of questions, and the like."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from adaptzip.models.texts.tokenisers import load_tokeniser
from benchmarks.fleet.kinds import Kind, Task
from benchmarks.stories import stories_base

LEAST, MOST = 6_000, 24_000
"""Letters of a slice."""
BLOCK = 64
"""Tokens of an example."""
EVERY = 5
"""One block of so many is held out."""
HELD_OUT = 24

base = cache(stories_base)


@cache
def model(material: Path) -> nn.Module:
    """The story model, in float32."""
    logging.disable_progress_bar()
    found: nn.Module = AutoModelForCausalLM.from_pretrained(base(material), dtype=torch.float32)
    return found.eval().requires_grad_(False)


def task(number: int, material: Path) -> Task:
    """A slice of text in blocks of tokens."""
    what, text = slices(material)[number]
    ids = torch.tensor(load_tokeniser(base(material)).encode(text))
    blocks = ids[: len(ids) // BLOCK * BLOCK].view(-1, BLOCK)
    held_out = torch.arange(len(blocks)) % EVERY == 0
    return Task(what, list(blocks[~held_out]), list(blocks[held_out][:HELD_OUT]))


@cache
def slices(material: Path) -> list[tuple[str, str]]:
    """All slices, those of the sources in turn."""
    data = material / "data"
    sources = [
        _long(_speakers(data / "tinyshakespeare" / "input.txt"), "Shakespeare's"),
        _long(_restaurants(data / "e2e-nlg" / "valid.txt"), "E2E,"),
        _long(_questions(data / "trec" / "train_5500.label"), "TREC,"),
        _cut("\n".join(row["question"] for row in _rows(data / "gsm8k" / "train.jsonl")), "GSM8K"),
        _cut("\n".join(_instructions(data / "llm-adapters-ARC-Easy" / "train.json")), "ARC"),
    ]
    return [one for turn in zip_longest(*sources) for one in turn if one is not None]


def _speakers(path: Path) -> Iterator[tuple[str, str]]:
    for speech in path.read_text(encoding="utf-8").split("\n\n"):
        speaker, _, said = speech.partition(":\n")
        yield speaker, said


def _restaurants(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        known, _, told = line.partition("||")
        yield re.findall(r"name : ([^|]*?) \|", known)[0], told


def _questions(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text(encoding="latin-1").splitlines():
        kind, _, question = line.partition(" ")
        yield kind, question


def _rows(path: Path) -> Iterator[dict[str, str]]:
    return (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def _instructions(path: Path) -> Iterator[str]:
    return (row["instruction"].partition("\n\nAnswer format")[0] for row in json.loads(path.read_text("utf-8")))


def _long(rows: Iterator[tuple[str, str]], source: str) -> Iterator[tuple[str, str]]:
    """The texts of each name joined, where they are long enough."""
    texts: dict[str, list[str]] = {}
    for name, text in rows:
        texts.setdefault(name, []).append(text.strip())
    joined = {name: "\n".join(parts) for name, parts in texts.items()}
    return ((f"{source} {name}", text[:MOST]) for name, text in joined.items() if len(text) >= LEAST)


def _cut(text: str, source: str) -> Iterator[tuple[str, str]]:
    """Pieces of one long text."""
    return ((f"{source} from letter {at}", text[at : at + MOST]) for at in range(0, len(text) - MOST, MOST))


def loss(model: nn.Module, blocks: Sequence[Tensor]) -> Tensor:
    """Cross entropy of the next token, in nats."""
    ids = torch.stack(tuple(blocks))
    found: Tensor = model(input_ids=ids, labels=ids).loss
    return found


@torch.no_grad()
def score(model: nn.Module, blocks: Sequence[Tensor]) -> float:
    """The logarithm of the next token's share, in nats, mean over tokens."""
    return -float(loss(model, blocks))


KIND = Kind(
    base="stories260k",
    targets=("q_proj", "v_proj", "gate_proj", "down_proj"),
    layers=None,
    steps=60,
    batch=16,
    rate=1e-2,
    scores="log-likelihood of a token, nats",
    model=model,
    task=task,
    loss=loss,
    score=score,
)
