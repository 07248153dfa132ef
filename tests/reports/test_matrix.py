"""Every figure of `evaluate` is what PEFT's own model gives, text by text: for all tasks, dtypes and extras."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import adaptzip
from adaptzip.reports.evaluation import NOTHING, TEACHER, Evaluation
from tests.cases import oracle
from tests.cases.matrix import TASKS, Cell, Made, Setting, cells, make, pairwise
from tests.cases.oracle import Numbers

OTHER, FILE = "another adapter", "the adapter's file"
_WITH_FILE = 3
"""Of so many settings one has a file beside the adapters, where not all have."""
QUICK = list(pairwise())


class Proof:
    """A cell on disk, and PEFT's figures for it."""

    def __init__(self, cell: Cell, folder: Path, *, file: bool, **lora: Any) -> None:
        self.made: Made = make(cell, folder, **lora)
        made, kind = self.made, self.made.task.kind
        self.students = {OTHER: made.other}
        own = {NOTHING: made.outputs(made.adapter, updates=False), TEACHER: made.outputs(made.adapter)}
        own[OTHER] = made.outputs(made.other)
        if file:
            self.students[FILE] = folder / "adapter.adz"
            adaptzip.compress(made.adapter, self.students[FILE], max_error=0.4)
            adaptzip.export(self.students[FILE], folder / "exported")
            own[FILE] = made.outputs(folder / "exported")
        self.samples = len(own[TEACHER].rows)
        self.expected: dict[str, Numbers] = {n: oracle.numbers(kind, own[TEACHER], out) for n, out in own.items()}

    def check(self, side: str, batch: int) -> None:
        """Hold `evaluate` to them."""
        made = self.made
        made.pad_at(side)
        found = adaptzip.evaluate(made.base, made.adapter, self.students, made.examples(), batch=batch, device="cpu")
        assert (found.kind, found.samples) == (made.task.kind, self.samples)
        for name, numbers in self.expected.items():
            for figure, value in numbers.items():
                assert getattr(found.rows[name], figure) == pytest.approx(value, rel=1e-5, abs=1e-5), (name, figure)
            self._check_gain(found, name)
        others = {figure for row in found.rows.values() for figure, value in vars(row).items() if value is not None}
        assert others == {"samples", *self.expected[TEACHER]}

    def _check_gain(self, found: Evaluation, name: str) -> None:
        nothing, teacher, own = (self.expected[row].get("metric") for row in (NOTHING, TEACHER, name))
        falls = found.metric in ("loss", "squared error")
        if nothing is None or teacher is None or own is None or (nothing <= teacher if falls else teacher <= nothing):
            assert found.gain(name) is None
        else:
            assert found.gain(name) == pytest.approx((own - nothing) / (teacher - nothing), rel=1e-3, abs=1e-3)


def named(settings: Sequence[Setting]) -> list[object]:
    return [pytest.param(*s, i % _WITH_FILE == 0, id=f"{s[0]}, {s[1]}, {s[2]}") for i, s in enumerate(settings)]


@pytest.mark.parametrize(("cell", "side", "batch", "file"), named(QUICK))
def test_evaluate_says_what_peft_says(cell: Cell, side: str, batch: int, file: bool, tmp_path: Path) -> None:
    Proof(cell, tmp_path, file=file).check(side, batch)


@pytest.mark.slow
@pytest.mark.parametrize("cell", cells(), ids=str)
def test_evaluate_says_what_peft_says_of_everything(cell: Cell, tmp_path: Path) -> None:
    proof = Proof(cell, tmp_path, file=True)
    for side, batch in product(("left", "right"), (1, 8)):
        proof.check(side, batch)


ENSURED = {"ensure_weight_tying": True}
FORMS: dict[str, dict[str, Any]] = {
    "DoRA": {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]},
    "rank-stabilised": {"use_rslora": True, "rank_pattern": {"layers.0.self_attn.q_proj": 5}},
    "every linear": {"target_modules": "all-linear"},
    "updates of both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "updates of both, ensured": {"target_modules": ["q_proj", "embed_tokens", "lm_head"], **ENSURED},
    "saved both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved embedding, ensured": {"modules_to_save": ["embed_tokens"], **ENSURED},
    "saved layer": {"modules_to_save": ["mlp"]},
    "rows of the head": {"trainable_token_indices": {"lm_head": [3, 4]}},
    "rows of both": {"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [4]}},
    "the same rows of both": {"trainable_token_indices": {"embed_tokens": [3, 5], "lm_head": [3, 5]}},
    "rows, updated head": {"trainable_token_indices": [3, 5], "target_modules": ["q_proj", "lm_head"]},
    "biases of updates": {"lora_bias": True, "target_modules": ["down_proj"]},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tied", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.filterwarnings("ignore:.*shares its weight with:adaptzip.errors.AdaptzipWarning")
def test_every_form_of_an_adapter_counts_where_peft_has_it(form: str, tied: bool, tmp_path: Path) -> None:
    Proof(Cell("causal", tied, "float32", "none"), tmp_path, file=False, **FORMS[form]).check("left", 8)


def test_any_two_properties_come_together() -> None:
    assert {(cell.task, cell.extras) for cell, _, _ in QUICK} == {(cell.task, cell.extras) for cell in cells()}
    assert {(cell.task, side) for cell, side, _ in QUICK} == set(product(TASKS, ("left", "right")))
    assert {(cell.task, batch) for cell, _, batch in QUICK} == set(product(TASKS, (1, 8)))
    assert len(QUICK) < len(cells()) / 3
