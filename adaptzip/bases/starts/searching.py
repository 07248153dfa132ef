"""Trying every seed of MT19937, at the places where the libraries' recipes would put the first module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from adaptzip.bases.starts.candidates import Candidate, candidates
from adaptzip.bases.starts.finding import start_at
from adaptzip.bases.starts.found import FoundStart
from adaptzip.bases.starts.hypotheses import Hypothesis, evidence
from adaptzip.bases.starts.placing import SURE, score
from adaptzip.bases.starts.scanning import Scan, scanner
from adaptzip.bases.starts.streams import Stream
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.workers import on_one_core, parallel_map
from adaptzip.errors import UsageError
from adaptzip.files.digest import digest
from adaptzip.files.journal import Journal

ALL = 2**32
PART = 1 << 22
"""Seeds between two notes of how far a search is."""
_AT_ONCE = 1 << 17
_STAGES = ((12, 10), (24, 19), (64, 51))
"""After so many parities, the fewest that must be as expected. By chance a seed passes the first in 2 % of cases, and
all in 1e-6. A parity of a module with a correlation of 0.9 is as expected in about 97 %, so that its seed passes."""

Evidence = tuple[NDArray[np.uint32], NDArray[np.int64]]


@dataclass(frozen=True)
class _Question:
    """A hypothesis with what follows from it."""

    hypothesis: Hypothesis
    module: Candidate
    evidence: Evidence


@on_one_core()
def search_start(
    modules: Mapping[str, LoraFactors],
    hypotheses: Sequence[Hypothesis],
    first: int = 0,
    last: int = ALL,
    *,
    progress: Callable[[int], None] | None = None,
    note: Path | None = None,
    device: torch.device | None = None,
    scan: Scan | None = None,
) -> FoundStart | None:
    """The start of an adapter whose seed may be any number of 32 bits.

    Ctrl-C ends it between two portions of seeds; with a note, the same search goes on after the last finished part.

    Args:
        modules: of an adapter.
        hypotheses: see `predicted`; each takes as long as the others.
        first, last: seeds from `first` to `last - 1`.
        progress: is told how many seeds have been tried, after each part.
        note: a file in which finished parts are noted, for resuming; it is made if missing, and left there.
        device: a CUDA device does without numba.
        scan: what tries the seeds; None takes the fastest that there is.

    Returns:
        The first start found, or None.

    Raises:
        UsageError: if a hypothesis names no module that could have a start, or seeds are beyond 32 bits.
        RefusedError: if the device is the CPU, and numba is not installed.
    """
    if not 0 <= first <= last <= ALL:
        raise UsageError(f"seeds {first} to {last} were asked for, expected 0 to {ALL}")
    questions = _questions(modules, hypotheses)
    scan = scan or scanner(device or torch.device("cpu"))
    journal = None if note is None else Journal(note, _key(modules, hypotheses))
    finished = {} if journal is None else journal.parts()
    for start in range(first - first % PART, last, PART):
        low, high = max(start, first), min(start + PART, last)
        name = f"{low}-{high}"
        if name in finished:
            hits = [(int(k), int(seed)) for k, seed in finished[name]["hits"]]
        else:
            hits = list(_part(questions, low, high, scan))
            if journal is not None:
                journal.note(name, hits=hits)
        for k, seed in hits:
            if (found := start_at(modules, seed, questions[k].hypothesis.offset)) is not None:
                return found
        if progress is not None:
            progress(high - first)
    return None


def _questions(modules: Mapping[str, LoraFactors], hypotheses: Sequence[Hypothesis]) -> list[_Question]:
    known = {name: one for one in candidates(modules) for name in one.names}
    for hypothesis in hypotheses:
        if hypothesis.module not in known:
            raise UsageError(f"module {hypothesis.module} can have no start, so no seed can be searched by it")
    return [_Question(one, known[one.module], evidence(known[one.module], one)) for one in hypotheses]


def _key(modules: Mapping[str, LoraFactors], hypotheses: Sequence[Hypothesis]) -> str:
    """Tells searches apart: what is looked for, and where."""

    def parts() -> Iterator[bytes]:
        for hypothesis in hypotheses:
            yield repr(sorted(asdict(hypothesis).items())).encode()
            yield modules[hypothesis.module].A.detach().float().cpu().contiguous().numpy().tobytes()

    return digest(parts())


def _part(questions: Sequence[_Question], low: int, high: int, scan: Scan) -> Iterator[tuple[int, int]]:
    """The hypotheses, by index, and seeds that go together for certain."""

    def portion(start: int) -> list[tuple[int, int]]:
        return _portion(questions, np.arange(start, min(start + _AT_ONCE, high), dtype=np.uint32), scan)

    for passed in parallel_map(portion, range(low, high, _AT_ONCE)):
        for k, seed in passed:
            one, hypothesis = questions[k].module, questions[k].hypothesis
            if score(Stream(seed), hypothesis.generator, one, hypothesis.offset, len(one.probe)) > SURE:
                yield k, seed


def _portion(questions: Sequence[_Question], seeds: NDArray[np.uint32], scan: Scan) -> list[tuple[int, int]]:
    """Which seeds pass every stage of which hypothesis; all hypotheses share the seeding of the first stage."""
    if not questions:
        return []
    count, least = _STAGES[0]
    rows = np.stack([question.evidence[0][:count] for question in questions])
    expected = np.stack([question.evidence[1][:count] for question in questions])
    first, which = np.nonzero(scan(seeds, rows, expected) >= least)
    order = np.argsort(which, kind="stable")
    passed = []
    for k, indices in groupby(order.tolist(), key=lambda index: int(which[index])):
        left = seeds[first[list(indices)]]
        rows, expected = questions[k].evidence
        for count, least in _STAGES[1:]:
            left = left[scan(left, rows[None, :count], expected[None, :count])[:, 0] >= least]
        passed += [(k, int(seed)) for seed in left]
    return passed
