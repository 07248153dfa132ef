"""Models that padding reaches are measured, calibrated and trained by their texts alone, as PEFT runs them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoTokenizer, BartForSequenceClassification, T5Config, T5ForConditionalGeneration, set_seed

import adaptzip
from adaptzip.distillation.distilling import Distilled, distill
from adaptzip.distillation.losses import LossWeights
from adaptzip.distillation.preparing import DataOptions
from adaptzip.distillation.schedules import Schedule
from adaptzip.errors import AdaptzipWarning
from adaptzip.fitting.calibration.gradients import module_gradients
from adaptzip.fitting.calibration.moments import collect_moments
from adaptzip.models.kinds import Kind
from adaptzip.models.live.batches import Example, hold_out
from adaptzip.models.live.running import load_teacher
from adaptzip.reports.evaluation import NOTHING, TEACHER
from tests.cases import oracle
from tests.cases.architectures import build
from tests.cases.matrix import tight_budget
from tests.cases.models_on_disk import TEXTS, save

OTHER = "another adapter"
TOLD = "its texts are run one at a time"
LABELS = (0, 2, 1, 1, 0, 2)


class Leaking:
    """A model that mixes padding in, or reads a class off it, with two adapters."""

    def __init__(self, folder: Path, architecture: str, head: str, kind: Kind, task_type: str) -> None:
        self.kind = kind
        model: Any = build(architecture, head, kind).model
        self.loads = type(model)
        self.base = save(lambda: build(architecture, head, kind).model, folder / "base")
        self.adapter, self.other = folder / "adapter", folder / "other"
        targets = ["layer_1"] if architecture == "XLNet" else ["intermediate.dense", "output.dense"]
        for seed, path in enumerate((self.adapter, self.other)):
            model = get_peft_model(
                self.loads.from_pretrained(self.base), LoraConfig(r=3, task_type=task_type, target_modules=targets)
            )
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
            model.save_pretrained(path)

    def labels(self, text: str, place: int) -> object:
        if self.kind == "encoder":
            return None
        return LABELS[place] if self.kind == "classifier" else [(place + i) % 3 for i in range(len(text.split()))]

    def examples(self) -> list[Example]:
        found = [self.labels(text, place) for place, text in enumerate(TEXTS)]
        return [Example(t, tuple(x) if isinstance(x, list) else x) for t, x in zip(TEXTS, found, strict=True)]  # type: ignore[arg-type]

    def outputs(self, adapter: Path) -> oracle.Outputs:
        labels = [self.labels(text, place) for place, text in enumerate(TEXTS)]
        return oracle.outputs(self.kind, oracle.live(self.loads, self.base, adapter), self.base, TEXTS, labels)


FNETS: list[tuple[str, str, Kind, str]] = [
    ("FNet", "ForSequenceClassification", "classifier", "SEQ_CLS"),
    ("FNet", "ForTokenClassification", "tokens", "TOKEN_CLS"),
    ("FNet", "Model", "encoder", "FEATURE_EXTRACTION"),
]
LEAKING = [*FNETS, ("XLNet", "ForSequenceClassification", "classifier", "SEQ_CLS")]
leaking = pytest.mark.parametrize(("architecture", "head", "kind", "task_type"), LEAKING)


@leaking
@pytest.mark.filterwarnings("ignore:.*will be re-initialized|.*head_mask")
def test_eval_runs_their_texts_alone(architecture: str, head: str, kind: Kind, task_type: str, tmp_path: Path) -> None:
    task = Leaking(tmp_path, architecture, head, kind, task_type)
    teacher, other = (task.outputs(adapter) for adapter in (task.adapter, task.other))
    with pytest.warns(AdaptzipWarning, match=TOLD):
        many = adaptzip.evaluate(task.base, task.adapter, {OTHER: task.other}, task.examples(), batch=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AdaptzipWarning)
        one = adaptzip.evaluate(task.base, task.adapter, {OTHER: task.other}, task.examples(), batch=1)
    for found in (many, one):
        for figure, value in oracle.numbers(kind, teacher, other).items():
            assert getattr(found.rows[OTHER], figure) == pytest.approx(value, rel=1e-5, abs=1e-6), figure
    assert many.rows[TEACHER].metric == one.rows[TEACHER].metric


@pytest.mark.parametrize(("architecture", "head", "kind", "task_type"), FNETS)
@pytest.mark.filterwarnings(f"ignore:.*{TOLD}:adaptzip.errors.AdaptzipWarning")
def test_distill_trains_on_their_texts_alone(
    architecture: str, head: str, kind: Kind, task_type: str, tmp_path: Path
) -> None:
    task = Leaking(tmp_path, architecture, head, kind, task_type)
    examples = task.examples()

    def made(name: str, hidden: float = 0.0, micro: int | None = None) -> tuple[Distilled, list[float]]:
        losses: list[float] = []
        schedule = Schedule(steps=4, batch=4, micro=micro, every=4, weights=LossWeights(hidden=hidden))
        found = distill(
            output=tmp_path / name,
            teacher=task.adapter,
            base=task.base,
            data=examples,
            budget=tight_budget(task.adapter),
            schedule=schedule,
            data_options=DataOptions(held_out=0.4),
            moments=lambda moment: losses.append(moment.loss),
            device="cpu",
        )
        return found, losses

    (together, losses), (alone, own) = made("together.adz"), made("alone.adz", micro=1)
    assert losses == pytest.approx(own, rel=1e-2, abs=1e-6)
    assert max(losses) > 1e-5
    for name, row in together.rows.items():
        assert row.distance == pytest.approx(alone.rows[name].distance, rel=1e-3, abs=1e-7)
    held, files = hold_out(examples, 0.4, 0)[1], {"distilled": tmp_path / "together.adz"}
    found = adaptzip.evaluate(task.base, task.adapter, files, held, whole=examples, batch=1).rows
    for ours, theirs in (("none", NOTHING), ("teacher", TEACHER), ("distilled", "distilled")):
        assert together.rows[ours].distance == pytest.approx(found[theirs].distance, rel=1e-4, abs=1e-6)
    assert made("watching.adz", hidden=1.0)[0].rows["none"] == together.rows["none"]


@pytest.mark.filterwarnings(f"ignore:.*{TOLD}:adaptzip.errors.AdaptzipWarning")
def test_calibration_looks_at_their_texts_alone(tmp_path: Path) -> None:
    task = Leaking(tmp_path, "FNet", "Model", "encoder", "FEATURE_EXTRACTION")
    adapter = adaptzip.read(task.adapter)
    together, alone = (collect_moments(task.base, adapter, TEXTS, batch=size) for size in (8, 1))
    for name, found in together.items():
        assert found.weight == pytest.approx(alone[name].weight, rel=1e-5)
        assert found.moments is not None
        torch.testing.assert_close(found.moments, alone[name].moments, rtol=1e-4, atol=1e-5)
    # Halves of texts are told apart within a batch, but run alone.
    words = [f"{text} {text}" for text in TEXTS]
    gradients = module_gradients(task.base, words, list(adapter.modules)[:1], batch=8)
    assert all(bool(gradient.isfinite().all()) and bool(gradient.any()) for gradient in gradients.values())


def t5_without_pad() -> Any:
    set_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=32, decoder_start_token_id=1, pad_token_id=None, **sizes))


@pytest.mark.parametrize("pad", [None, "f"])
@pytest.mark.parametrize("batch", [1, 8])
def test_targets_need_no_padding_token(batch: int, pad: str | None, tmp_path: Path) -> None:
    base = save(t5_without_pad, tmp_path / "base")
    tokeniser = AutoTokenizer.from_pretrained(base)
    tokeniser.pad_token = pad
    tokeniser.save_pretrained(base)
    model = get_peft_model(t5_without_pad(), LoraConfig(r=2, task_type="SEQ_2_SEQ_LM", target_modules=["q"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    model.save_pretrained(tmp_path / "adapter")
    # Some texts and targets end in the padding token.
    targets = ("f", "a f", "f f f", "b a c d e f", "c", "d f f a b c d")
    expected = oracle.outputs(
        "seq2seq", oracle.live(T5ForConditionalGeneration, base, tmp_path / "adapter"), base, TEXTS, targets
    )
    examples = [Example(text, target) for text, target in zip(TEXTS, targets, strict=True)]
    found = adaptzip.evaluate(base, tmp_path / "adapter", {}, examples, batch=batch).rows[TEACHER]
    assert found.metric == pytest.approx(oracle.numbers("seq2seq", expected, expected)["metric"], rel=1e-5)


def bart_classifier() -> Any:
    """Reads a text's class from its end token, which texts are padded with as well."""
    built: Any = build("Bart", "ForSequenceClassification", "classifier").model
    built.config.eos_token_id = built.config.pad_token_id = 1
    return built


def test_texts_padded_with_their_end_token_are_run_alone(tmp_path: Path) -> None:
    base = save(bart_classifier, tmp_path / "base")
    model = get_peft_model(bart_classifier(), LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["v_proj"]))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(tmp_path / "adapter")
    texts = [f"{text} <s>" for text in TEXTS]
    live = oracle.live(BartForSequenceClassification, base, tmp_path / "adapter")
    rows = oracle.outputs("classifier", live, base, texts, LABELS).rows
    adapter = adaptzip.read(tmp_path / "adapter")
    loaded = load_teacher(base, adapter, torch.device("cpu"))
    with pytest.warns(AdaptzipWarning, match=TOLD):
        (batch,) = loaded.batches(texts, 8, 16)
    with torch.no_grad():
        found = loaded(batch).double()
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    torch.testing.assert_close(found, rows[order], rtol=1e-4, atol=1e-6)
