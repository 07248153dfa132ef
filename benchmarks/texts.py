"""The texts that benchmarks train and measure on."""

from __future__ import annotations

import random
from pathlib import Path

from adaptzip.models.live.batches import Example

_PIECE = 400
_TEST = 1000


def trec(material: Path, *, names: bool = False) -> tuple[list[Example], list[Example]]:
    """TREC's questions with their coarse class, as the material's adapter was trained: its training rows and others.

    Args:
        names: classes by their names in place of their numbers.
    """
    lines = (material / "data" / "trec" / "train_5500.label").read_text(encoding="latin-1").splitlines()
    random.Random(0).shuffle(lines)
    classes = sorted({line.split(":")[0] for line in lines})
    labels = {name: name if names else str(number) for number, name in enumerate(classes)}
    rows = [Example(line.split(" ", 1)[1], labels[line.split(":")[0]]) for line in lines]
    return rows[_TEST:], rows[:_TEST]


def shakespeare(material: Path) -> list[str]:
    """Tiny Shakespeare in pieces of 400 characters."""
    text = (material / "data" / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    return [text[i : i + _PIECE] for i in range(0, len(text), _PIECE)]
