"""From a teacher to a file, by every method."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptzip
from adaptzip import methods
from adaptzip.adz.container import writer
from adaptzip.core.adapter import Adapter
from adaptzip.core.comparing import same_bits
from adaptzip.distillation.distilling import Distilled
from adaptzip.distillation.preparing import DataOptions
from adaptzip.distillation.schedules import Schedule
from adaptzip.errors import (
    AdaptzipWarning,
    CheckFailedError,
    CheckpointError,
    NoRoomError,
    OutputError,
    RefusedError,
    UsageError,
)
from adaptzip.models.live.batches import Example, hold_out
from adaptzip.reports.evaluation import NOTHING, TEACHER, evaluate
from tests.cases import tiny_peft
from tests.cases.teachers import (
    SHORT,
    basis_for,
    classifier,
    encoder,
    has_own_basis,
    teacher_of,
    texts,
    train,
    unlabelled,
)

REFERENCE = methods.REFERENCE
UPDATES = list(methods.fittable())
"""Methods whose files can be read as updates; what lies behind layers has tests of its own."""
EXAMPLES = texts()
LONGER = Schedule(steps=48, batch=8, every=6)
"""The learning rate rises for 20 steps."""
SOME_TEXTS = "\n".join(json.dumps({"text": example.text}) for example in EXAMPLES[:12])


def near(a: float | None, b: float | None) -> bool:
    return a is b is None or (a is not None and b is not None and abs(a - b) <= 1e-6 + 1e-3 * abs(b))


def scored_again(
    base: Path,
    teacher: Adapter,
    found: Distilled,
    file: Path,
    basis: Path | None = None,
    examples: Sequence[Example] = EXAMPLES,
) -> None:
    """The written file, read and merged, does what the report says."""
    held = hold_out(examples, 0.1, 0)[1]
    report = evaluate(base, teacher, {"file": file}, held, device="cpu", basis=basis).rows
    for ours, theirs in ((NOTHING, "none"), (TEACHER, "teacher"), ("file", "distilled")):
        row, told = report[ours], found.rows[theirs]
        assert near(row.kl, told.kl)
        assert near(row.cosine, told.cosine)
        assert (row.agreement, row.samples) == (told.agreement, told.samples)
        assert near(row.metric, told.metric)


@pytest.mark.parametrize("name", UPDATES)
def test_a_classifier_is_distilled_within_bytes(name: str, tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    options = basis_for(name, teacher, tmp_path / "basis")
    file = tmp_path / "x.adz"
    found = train(base, teacher, name, "1000B", output=file, schedule=LONGER, **options)
    size = file.stat().st_size
    assert size == writer.size(found.compressed)
    assert size <= 1000
    assert found.rows["teacher"].kl == 0
    fitted, distilled = (found.rows[row].kl or 0.0 for row in ("fitted", "distilled"))
    assert distilled < fitted or distilled == fitted < 1e-4  # What is fitted so well need not be trained.
    assert distilled < 0.7 * (found.rows["none"].kl or 0.0)
    again = adaptzip.read(file, base=base, basis=options.get("basis"))
    assert again.extras.keys() == teacher.extras.keys()
    assert all(same_bits(again.extras[key], tensor) for key, tensor in teacher.extras.items())
    scored_again(base, teacher, found, file, options.get("basis"))
    told = adaptzip.open(file).provenance.distilled
    assert told is not None
    assert told.distilled[0] == pytest.approx(distilled, rel=1e-2, abs=1e-6)
    assert (told.steps, told.metric) == (48, "accuracy")
    other = tmp_path / "y.adz"
    train(base, teacher, name, "1000B", output=other, schedule=LONGER, **options)
    assert other.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("extras", ["int8", "float16"])
def test_the_report_is_of_the_head_that_the_file_keeps(extras: str, tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    # A head of large numbers, so that fewer bits are seen in what it says.
    teacher = replace(teacher, extras={key: 30 * tensor for key, tensor in teacher.extras.items()})
    file = tmp_path / "x.adz"
    found = train(base, teacher, REFERENCE, "1000B", output=file, extras=extras)
    exact = train(base, teacher, REFERENCE, "1000B")
    assert found.rows["none"] == exact.rows["none"]
    assert found.rows["distilled"].kl != exact.rows["distilled"].kl
    scored_again(base, teacher, found, file)


@pytest.mark.parametrize("extras", ["lossless", "int8"])
def test_the_report_is_of_the_biases_and_magnitudes_that_the_file_keeps(extras: str, tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    generator = torch.Generator().manual_seed(1)
    modules = dict(teacher.modules)
    (first, a), (second, b) = list(modules.items())[:2]
    modules[first] = replace(a, magnitude=torch.rand(a.shape[0], generator=generator) + 0.5)
    modules[second] = replace(b, bias=torch.randn(b.shape[0], generator=generator))
    teacher = replace(teacher, modules=modules)
    file = tmp_path / "x.adz"
    found = train(base, teacher, REFERENCE, "2500B", output=file, extras=extras)
    scored_again(base, teacher, found, file)


@pytest.mark.parametrize("name", UPDATES)
def test_a_language_model_is_distilled_within_parameters(name: str, tmp_path: Path) -> None:
    base, teacher = teacher_of(tiny_peft.llama, tmp_path / "base", "q_proj", "v_proj")
    options = basis_for(name, teacher, tmp_path / "basis")
    file = tmp_path / "x.adz"
    found = train(base, teacher, name, "400", output=file, schedule=LONGER, data=unlabelled(), **options)
    assert 0 < found.compressed.provenance.parameters <= 400
    fitted, distilled = (found.rows[row].kl or 0.0 for row in ("fitted", "distilled"))
    assert distilled < fitted or distilled == fitted < 1e-4  # What is fitted so well need not be trained.
    scored_again(base, teacher, found, file, options.get("basis"), unlabelled())


@pytest.mark.parametrize("kind", ["encoder", "seq2seq"])
@pytest.mark.filterwarnings("ignore:no text to be written is named")
def test_other_models(kind: str, tmp_path: Path) -> None:
    make, ends = {"encoder": (encoder, ("query", "value")), "seq2seq": (tiny_peft.t5, (".q", ".v"))}[kind]
    base, teacher = teacher_of(make, tmp_path / "base", *ends)
    file = tmp_path / "x.adz"
    found = train(base, teacher, REFERENCE, "900B" if kind == "encoder" else "1100B", output=file, data=unlabelled())
    held = hold_out(unlabelled(), 0.1, 0)[1]
    row = evaluate(base, teacher, {"file": file}, held, device="cpu").rows["file"]
    told = found.rows["distilled"]
    assert near(row.kl, told.kl)
    assert near(row.cosine, told.cosine)
    (after, before) = ((r.kl if r.kl is not None else r.cosine) or 0.0 for r in (told, found.rows["fitted"]))
    assert after <= before
    assert found.metric is None


def test_a_file_is_trained_further(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    file = tmp_path / "x.adz"
    adaptzip.compress(teacher, file, budget="950B", device="cpu")
    found = train(base, teacher, REFERENCE, "1200B", source=file)
    assert writer.size(found.compressed) <= 1200
    assert found.rows["distilled"].kl < found.rows["fitted"].kl  # type: ignore[operator]
    # Within its own size the report takes room, which may be more than so short a training gains.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no file that training saw", AdaptzipWarning)
        own = train(base, teacher, REFERENCE, None, source=file)
    assert writer.size(own.compressed) <= file.stat().st_size
    assert own.rows["distilled"].kl <= own.rows["fitted"].kl  # type: ignore[operator]
    with pytest.raises(UsageError, match="within bytes, not parameters"):
        train(base, teacher, REFERENCE, "300", source=file)


def test_a_fit_with_gains_is_trained(tmp_path: Path) -> None:
    base, teacher = teacher_of(tiny_peft.llama, tmp_path / "base", "q_proj", "v_proj", "down_proj")
    calibration = tmp_path / "texts.jsonl"
    calibration.write_text(SOME_TEXTS)
    file = tmp_path / "x.adz"
    found = train(base, teacher, REFERENCE, "1200B", calibration=calibration, output=file, data=unlabelled())
    assert any(found.compressed.gains)
    assert file.stat().st_size <= 1200
    scored_again(base, teacher, found, file, examples=unlabelled())


def test_a_file_of_another_teacher_is_refused(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    other = {key: tensor + 1 for key, tensor in teacher.extras.items()}
    file = tmp_path / "x.adz"
    adaptzip.compress(replace(teacher, extras=other), file, budget="1100B", device="cpu")
    with pytest.raises(RefusedError, match=r"^the extra base_model.model.classifier\S* is not the teacher's$"):
        train(base, teacher, REFERENCE, None, source=file)
    fewer = replace(teacher, modules=dict(list(teacher.modules.items())[1:]))
    adaptzip.compress(teacher, file, budget="1100B", device="cpu", force=True)
    with pytest.raises(RefusedError, match="the teacher has none"):
        train(base, fewer, REFERENCE, None, source=file)


@pytest.mark.parametrize("name", methods.names())
def test_budgets_that_can_not_be_kept(name: str, tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    options = basis_for(name, teacher, tmp_path / "basis")
    # In the teacher's own basis a module can be one number, and all of a vector's hold something, so that three do.
    least = () if has_own_basis(name) or getattr(methods.load(name), "fits_little", False) else ("3",)
    for budget in ("300B", *least):
        with pytest.raises(CheckFailedError) as caught:
            train(base, teacher, name, budget, **options)
        assert "\n" not in str(caught.value)


def test_a_size_that_can_not_be_reached_is_told_as_it_was_given(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    with pytest.raises(CheckFailedError, match="400 bytes cannot be reached") as caught:
        train(base, teacher, REFERENCE, "400B")
    least = int(str(caught.value).split()[-1])
    with pytest.raises(CheckFailedError, match=f"without any module the file takes {least}"):
        train(base, teacher, REFERENCE, f"{least - 1}B")
    train(base, teacher, REFERENCE, f"{least + 60}B")


def test_an_output_that_exists_is_refused_before_any_work(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    file = tmp_path / "x.adz"
    file.write_bytes(b"something")
    seen: list[int] = []
    with pytest.raises(OutputError, match="exists"):
        train(base, teacher, REFERENCE, "1000B", output=file, moments=lambda moment: seen.append(moment.step))
    assert not seen


@pytest.mark.parametrize(
    "choice",
    [
        {"allocate": "increlora"},
        {"extras": "int8"},
        {"embed_basis": True},
        {"max_error": 0.5},
        {"name": "vblora", "rank": 1},
        {"name": "loretta"},
    ],
)
def test_a_file_keeps_its_form(choice: dict[str, Any], tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    file = tmp_path / "x.adz"
    adaptzip.compress(teacher, file, budget="950B", device="cpu")
    given = {"name": REFERENCE, **choice}
    with pytest.raises(UsageError, match="a file that exists keeps its form"):
        train(base, teacher, given.pop("name"), "1000B", source=file, **given)


def test_extras_of_eight_bit_floats(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    teacher = replace(teacher, extras={key: t.to(torch.float8_e4m3fn) for key, t in teacher.extras.items()})
    assert train(base, teacher, REFERENCE, "1000B").steps


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_that_no_file_can_hold(seed: int, tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    with pytest.raises(UsageError, match="out of range"):
        train(base, teacher, REFERENCE, "1000B", seed=seed)
    with pytest.raises(UsageError, match="out of range"):
        adaptzip.compress(teacher, seed=seed)


def test_a_large_seed(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    assert train(base, teacher, REFERENCE, "1000B", schedule=replace(SHORT, seed=2**62)).steps


def test_tokens_are_counted_from_one() -> None:
    with pytest.raises(UsageError, match="max_tokens is 0"):
        DataOptions(max_tokens=0)


def test_what_makes_no_sense(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    with pytest.raises(UsageError, match="distilling needs a size"):
        train(base, teacher, REFERENCE, None)
    zero = {n: replace(m, B=torch.zeros_like(m.B)) for n, m in teacher.modules.items()}
    with pytest.raises(RefusedError, match="every update of the teacher is zero"):
        train(base, replace(teacher, modules=zero), REFERENCE, "2kB")
    with pytest.raises(CheckFailedError, match="all examples have the same text"):
        train(base, teacher, REFERENCE, "2kB", data=EXAMPLES[:1])


def test_a_file_is_never_made_worse(tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    file, other = tmp_path / "x.adz", tmp_path / "y.adz"
    adaptzip.compress(teacher, file, budget="950B", device="cpu")
    held = hold_out(EXAMPLES, 0.1, 0)[1]
    before = evaluate(base, teacher, {"file": file}, held, device="cpu").rows["file"].kl
    # Such a rate leaves nothing of the fit.
    harmful = replace(SHORT, rate=1e3)
    with pytest.warns(AdaptzipWarning, match="whose update is kept as it was"):
        own = train(base, teacher, REFERENCE, None, source=file, output=other, schedule=harmful)
    assert other.read_bytes() == file.read_bytes()
    assert near(own.rows["fitted"].kl, before)
    assert (own.step, own.rows["distilled"]) == (0, own.rows["fitted"])
    with pytest.warns(AdaptzipWarning, match="whose update is kept as it was"):
        larger = train(base, teacher, REFERENCE, "1200B", source=file, schedule=harmful)
    assert larger.compressed.grouped == bytes(adaptzip.open(file).grouped) != b""
    assert larger.compressed.provenance.distilled is not None
    assert larger.compressed.provenance.parameters == adaptzip.open(file).provenance.parameters


@pytest.mark.parametrize("name", UPDATES)
def test_what_a_file_was_made_of_is_scored_as_it_is(name: str, tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    options = basis_for(name, teacher, tmp_path / "basis")
    file = tmp_path / "x.adz"
    train(base, teacher, name, "1000B", output=file, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AdaptzipWarning)
        found = train(base, teacher, name, None, source=file, **options)
    held = hold_out(EXAMPLES, 0.1, 0)[1]
    own = evaluate(base, teacher, {"file": file}, held, device="cpu", **options).rows["file"]
    assert near(found.rows["fitted"].kl, own.kl)
    assert (found.rows["distilled"].kl or 0.0) <= (found.rows["fitted"].kl or 0.0)


def test_texts_that_no_update_reaches(tmp_path: Path) -> None:
    base, teacher = teacher_of(encoder, tmp_path / "base", "pooler.dense")
    with pytest.raises(RefusedError, match="there is nothing to learn"):
        train(base, teacher, REFERENCE, "1000B", data=unlabelled())


def test_data_is_read_before_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, teacher = classifier(tmp_path / "base")
    data = tmp_path / "texts.jsonl"
    data.write_text("[")
    monkeypatch.setattr("adaptzip.distillation.preparing.load_bare", None)
    with pytest.raises(CheckpointError, match="is not JSON"):
        train(base, teacher, REFERENCE, "1000B", data=data)


@pytest.mark.parametrize("budget", ["50B", "400B"])
def test_a_budget_that_is_too_small_is_named_as_it_was_given(budget: str, tmp_path: Path) -> None:
    base, teacher = classifier(tmp_path / "base")
    with pytest.raises(NoRoomError, match=f"^{budget[:-1]} bytes cannot be reached"):
        train(base, teacher, REFERENCE, budget)
