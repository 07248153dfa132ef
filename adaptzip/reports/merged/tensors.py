"""Checking one tensor of a merged model, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from operator import add

import torch
from torch import Tensor

from adaptzip.models.adding import row_blocks
from adaptzip.models.dequantising.opening import found_in
from adaptzip.models.folder import BaseModel
from adaptzip.reports.merged.numbers import Tally, compare
from adaptzip.reports.merged.places import Place
from adaptzip.reports.merged.reasons import Fit, fit, reason
from adaptzip.reports.merged.report import Kind, TensorCheck, Verdict
from adaptzip.reports.merged.rules import DEFAULT, Rule, rules_for
from adaptzip.restoring.merging.edits import Edit, Update, WithinRows
from adaptzip.restoring.merging.plan import Output
from adaptzip.restoring.merging.weights import BLOCK, goes_by_rows, on_rows

MOST_SHARE = 0.05
"""The most that close numbers may differ, as a share of the change: where an update is hardly larger than the last
place, every model is within a few units of it."""
_SAMPLE = 1 << 16
"""Numbers of the rows by which rules are chosen."""
_MOST_BIAS = 0.005
"""How far from 1 the scale of a close update may be, beyond what chance explains."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One tensor to check.

    Attributes:
        base: the base model.
        merged: the merged model.
        output: what the merged model should hold.
        place: where it does.
        in_turn: the edits of several adapters one after another; () where there is one.
    """

    base: BaseModel
    merged: BaseModel
    output: Output
    place: Place
    in_turn: tuple[Edit, ...] = ()

    @property
    def dtype(self) -> torch.dtype:
        """Of the merged model's tensor."""
        return self.merged.stored(self.place.tensors[0]).dtype

    @property
    def decoded(self) -> bool:
        """Whether the base's tensor is quantised."""
        source = self.output.source
        return source is not None and source in found_in(self.base.tensors[source])

    @property
    def rules(self) -> tuple[Rule, ...]:
        if not self.output.edits:
            return ()
        several = bool(self.in_turn)
        return rules_for(self.output.stored.dtype, self.dtype, several=several, decoded=self.decoded)

    def blocks(self, rule: Rule, numbers: int = BLOCK) -> Iterator[tuple[int, Tensor | None, list[Edit], Tensor]]:
        """The first row of each block, its base, its edits and what was found there; one block where rows depend."""
        edits = self.in_turn if rule.in_turn else self.output.edits
        source, plain = self.output.source, self.place.plain
        if plain is None or not goes_by_rows(self.base, self.output):
            yield 0, None if source is None else self.base.read(source), list(edits), self.place.read(self.merged)
            return
        for rows in row_blocks(self.output.stored.shape, numbers):
            yield rows[0], self.base.read(str(source), rows), on_rows(edits, rows), self.merged.read(plain, rows)

    def tally(self, rule: Rule) -> Tally:
        """Compare the tensor with what a rule makes."""
        return reduce(add, (self._compared(rule, *block) for block in self.blocks(rule)), Tally())

    def sample(self, rule: Rule) -> Tally:
        """The same of the first rows alone, where rows are merged without the others."""
        return next((self._compared(rule, *block) for block in self.blocks(rule, _SAMPLE)), Tally())

    def _compared(self, rule: Rule, first: int, base: Tensor | None, edits: list[Edit], found: Tensor) -> Tally:
        start = torch.empty(self.output.stored.shape, dtype=self.output.stored.dtype) if base is None else base.clone()
        expected = rule.expected(start, edits, found.dtype)
        before = base.to(found.dtype) if base is not None and base.shape == expected.shape else None
        return compare(before, expected, found, first)

    def fit(self) -> Fit | None:
        """How much of the update the tensor holds; None where that is no question."""
        return fit((base, edits, found) for _, base, edits, found in self.blocks(DEFAULT))


def check_tensor(subject: Subject, order: Sequence[str], max_ulps: float) -> TensorCheck:
    """Say whether a tensor is what it should be.

    Args:
        subject: the tensor.
        order: names of rules, those to be tried first.
        max_ulps: the most units of the last place that are accepted.
    """
    output = subject.output
    if (wrong := _wrong_shape(subject)) is not None:
        return TensorCheck(output.stored.name, _kind(output), "no", reason="shape", why=wrong)
    if not output.edits:
        return _unchanged(subject)
    rules = sorted(subject.rules, key=lambda rule: order.index(rule.name) if rule.name in order else len(order))
    best = subject.tally(rules[0]), rules[0]
    for rule in _better(subject, rules) if best[0].differing else ():
        best = min(best, (subject.tally(rule), rule), key=lambda tried: (tried[0].differing > 0, tried[0].error))
    tally, rule = best
    verdict = _verdict(tally, max_ulps)
    measured = subject.fit() if verdict == "no" and output.source is not None else None
    key, why = reason(tally, measured) if verdict == "no" else ("", "")
    return TensorCheck(
        output.stored.name,
        _kind(output),
        verdict,
        rule.name,
        tally.numbers,
        tally.differing,
        tally.ulps,
        tally.relative_error,
        None if measured is None else measured.scale,
        key,
        why,
    )


def _better(subject: Subject, rules: Sequence[Rule]) -> list[Rule]:
    """The rules under which clearly fewer of the first numbers differ than under the first rule."""
    most = subject.sample(rules[0]).differing / 2
    return [rule for rule in rules[1:] if subject.sample(rule).differing < most]


def probe(subjects: Sequence[Subject]) -> list[str]:
    """The names of the rules, the likeliest first, by the first rows of a few tensors."""
    scores: dict[str, int] = {}
    for subject in islice((s for s in subjects if _kind(s.output) == "module" and _wrong_shape(s) is None), 3):
        for rule in subject.rules:
            scores[rule.name] = scores.get(rule.name, 0) - subject.sample(rule).differing
    return sorted(scores, key=lambda name: -scores[name])


def one_rule(subjects: Sequence[Subject], rows: Sequence[TensorCheck]) -> str | None:
    """The name of the rule under which all that is changed is exact, None where there is none.

    Args:
        subjects: what was checked.
        rows: those that are changed, each exact under the first rule that was tried.
    """
    modules = [row for row in rows if row.kind == "module"] or rows
    by_name = {subject.output.stored.name: subject for subject in subjects}
    for name in dict.fromkeys(row.rule for row in modules):
        others = [by_name[row.name] for row in modules if row.rule != name]
        again = [next((rule for rule in subject.rules if rule.name == name), None) for subject in others]
        if all(rule and not subject.tally(rule).differing for subject, rule in zip(others, again, strict=True)):
            return name
    return None


def _verdict(tally: Tally, max_ulps: float) -> Verdict:
    if not tally.differing:
        return "exact"
    share, scale = tally.relative_error, tally.scale
    if tally.ulps > max_ulps or share is None or scale is None or share > MOST_SHARE:
        return "no"
    chance = 4 * share / tally.numbers**0.5
    return "close" if abs(scale - 1) <= _MOST_BIAS + chance else "no"


def _unchanged(subject: Subject) -> TensorCheck:
    """A tensor that the adapter leaves alone, which must be the base's."""
    name, tally = subject.output.stored.name, subject.tally(DEFAULT)
    if not tally.differing:
        return TensorCheck(name, "unchanged", "exact", None, tally.numbers)
    why = f"the adapter leaves it alone, and {tally.differing:,} of {tally.numbers:,} numbers are not the base's"
    return TensorCheck(
        name, "unchanged", "no", None, tally.numbers, tally.differing, tally.ulps, None, None, "other base", why
    )


def _wrong_shape(subject: Subject) -> str | None:
    expected = tuple(subject.output.stored.shape)
    plain = subject.place.plain
    found = subject.merged.stored(plain).shape if plain is not None else tuple(subject.place.read(subject.merged).shape)
    return None if found == expected else f"is {list(found)}, expected {list(expected)}"


def _kind(output: Output) -> Kind:
    if not output.edits:
        return "unchanged"
    edits = (edit.edit if isinstance(edit, WithinRows) else edit for edit in output.edits)
    return "module" if any(isinstance(edit, Update) for edit in edits) else "extra"
