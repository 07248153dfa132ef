"""Tallies of rows that are drawn, without a model."""

from __future__ import annotations

from math import nan

import torch
from torch import Tensor, nn

from adaptzip.models.live.running import NO_LABEL, Batch, Kind, LoadedModel
from adaptzip.reports.measures.tallies import Tally, tally

TEXTS = 12
_LONGEST = 5


def drawn(kind: Kind, width: int, seed: int = 0, labelled: bool = True) -> tuple[Tensor, Batch, LoadedModel]:
    """Rows of a batch of `TEXTS` texts of 1 to 5 tokens, with labels that are often right; one text has none."""
    generator = torch.Generator().manual_seed(seed)
    loaded = LoadedModel(nn.Linear(1, 1), kind, None, {})  # type: ignore[arg-type]
    lengths = 1 + torch.arange(TEXTS) % _LONGEST
    mask = torch.arange(_LONGEST) < lengths.unsqueeze(1)
    ids = torch.randint(width, mask.shape, generator=torch.Generator().manual_seed(9))
    labels = _labels(kind, width, mask) if labelled else None
    batch = Batch(ids, mask, labels)
    rows = torch.randn(len(loaded.rows_texts(batch)), width, generator=generator)
    told = loaded.rows_labels(batch)
    if told is not None:
        rows = rows + _towards(told, width)
    return rows, batch, loaded


def _labels(kind: Kind, width: int, mask: Tensor) -> Tensor | None:
    generator = torch.Generator().manual_seed(8)
    if kind in ("causal", "encoder"):
        return None
    if kind in ("multilabel", "scores"):
        labels = torch.randint(2 if kind == "multilabel" else 4, (TEXTS, width), generator=generator).float()
        labels[3] = nan
        return labels
    shape = (TEXTS,) if kind == "classifier" else mask.shape
    labels = torch.randint(width, shape, generator=generator)
    if kind == "seq2seq":
        return labels.masked_fill(~mask, NO_LABEL)
    labels[3] = NO_LABEL
    return labels if kind == "classifier" else labels.masked_fill(~mask, NO_LABEL)


def _towards(labels: Tensor, width: int) -> Tensor:
    if labels.ndim == 2:
        return 2 * labels.nan_to_num() - 1
    return 1.5 * nn.functional.one_hot(labels.clamp(min=0), width)


def tallied(
    kind: Kind, width: int, *, seed: int = 0, batch: int = TEXTS, constant: bool = False, labelled: bool = True
) -> Tally:
    """The tally of drawn rows, beside a teacher's; `constant` ones are all the same."""
    rows, whole, loaded = drawn(kind, width, seed, labelled)
    teacher = drawn(kind, width, 77, labelled)[0]
    if constant:
        rows = rows[:1].expand_as(rows)
    owners = loaded.rows_texts(whole)
    parts, pairs = [], []
    for start in range(0, TEXTS, batch):
        place = slice(start, start + batch)
        parts.append(Batch(whole.ids[place], whole.mask[place], None if whole.labels is None else whole.labels[place]))
        mine = (owners >= start) & (owners < start + batch)
        pairs.append((rows[mine], teacher[mine]))
    return tally(loaded, parts, pairs)
