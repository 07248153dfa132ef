"""Classifiers on all-MiniLM-L6-v2: in which of four languages a name is, or which of four kinds of thing it names.

The head is drawn once, is the same for all, and counts as the base's: an adapter is its update and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.fleet.kinds import Kind, Task
from fixtures.evaluation import batches_by_length, load_encoder, targets, tokenise
from fixtures.langid import LANGUAGES
from fixtures.names import Row, digest, is_held_out, names_of

LABELS = 4
LONGEST = 24
"""Letters of a name."""
HELD_OUT = 160
BATCH = 32
KINDS = ("territory", "language", "script", "currency")
HEAD_SEED = 0


@cache
def model(_: Path) -> nn.Module:
    """The encoder with a head of orthonormal rows, from the package that brings it."""
    found: nn.Module = load_encoder(LABELS)
    generator = torch.Generator().manual_seed(HEAD_SEED)
    head = found.get_submodule("classifier")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        head.weight.copy_(torch.linalg.qr(torch.randn(*head.weight.T.shape, generator=generator))[0].T)
        head.bias.zero_()
    return found.requires_grad_(False)


def task(number: int, _: Path) -> Task:
    """In turn: four languages by all names, four by names of one kind, and four kinds of names of two languages."""
    draw = random.Random(number)
    if number % 3 == 2:
        chosen = draw.sample(LANGUAGES, 2)
        return _task(f"kind of a name in {' and '.join(chosen)}", _by_kind(chosen))
    chosen = draw.sample(LANGUAGES, LABELS)
    if number % 3 == 0:
        return _task(f"language of a name: {', '.join(chosen)}", names_of(chosen))
    kind = draw.choice(KINDS[:2])
    named = (row for row in names_of(chosen) if row.item.startswith(f"{kind}:"))
    return _task(f"language of the name of a {kind}: {', '.join(chosen)}", named)


def _by_kind(languages: Sequence[str]) -> Iterator[Row]:
    for row in names_of(languages):
        kind = row.item.partition(":")[0]
        if kind in KINDS:
            yield replace(row, label=KINDS.index(kind))


def _task(what: str, rows: Iterator[Row]) -> Task:
    short = (row for row in rows if len(row.text) <= LONGEST)
    mixed = sorted(short, key=lambda row: (digest(row.item, str(row.label)), row.text))
    held_out = [row for row in mixed if is_held_out(row)][:HELD_OUT]
    return Task(what, [row for row in mixed if not is_held_out(row)], held_out)


def loss(model: nn.Module, rows: Sequence[Row]) -> Tensor:
    """Cross entropy, in nats."""
    return cross_entropy(model(**tokenise(rows)).logits, targets(rows))


@torch.no_grad()
def score(model: nn.Module, rows: Sequence[Row]) -> float:
    """Accuracy."""
    batches = [[rows[place] for place in places] for places in batches_by_length(rows, BATCH)]
    right = sum(int((model(**tokenise(batch)).logits.argmax(1) == targets(batch)).sum()) for batch in batches)
    return right / len(rows)


KIND = Kind(
    base="sentence-transformers/all-MiniLM-L6-v2",
    targets=("query", "value", "intermediate.dense"),
    layers=(3, 4, 5),
    steps=40,
    batch=BATCH,
    rate=1e-2,
    scores="accuracy",
    model=model,
    task=task,
    loss=loss,
    score=score,
)
