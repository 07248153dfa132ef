"""`eval`: the table, the plot, the numbers as JSON, and what stands in their way."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import adaptzip
from adaptzip.adz.container.reader import read_header
from adaptzip.models.live.batches import hold_out, read_examples
from adaptzip.reports.evaluation import evaluate
from tests.cases.data_sets import parquet, serving_sets
from tests.cases.evaluation_cases import causal, classifier, weakened, write_rows
from tests.cli.cli_cases import Result, listing, make_adapter, refused, run
from tests.cli.test_cli_reference import documented


@dataclass(frozen=True)
class Workplace:
    """A base model with its teacher, the teacher compressed, and data."""

    base: Path
    teacher: Path
    packed: Path
    data: Path

    def eval(self, *words: object) -> Result:
        given = {"--teacher": self.teacher, "--base": self.base, "--data": self.data}
        return run("eval", *words, *(x for pair in given.items() if pair[0] not in words for x in pair))


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    base, teacher = classifier(tmp_path)
    packed = tmp_path / "packed.adz"
    adaptzip.compress(teacher, packed, max_error=0.3)
    return Workplace(base, teacher, packed, write_rows(tmp_path / "rows.jsonl"))


def test_adapters_stand_side_by_side(place: Workplace) -> None:
    half = weakened(place.teacher, 0.5)
    before = listing(place.base.parent)
    result = place.eval(half, place.packed, "--label-field", "label")
    assert result.code == 0, result.err
    assert result.err == ""
    table, below = result.out.split("\n\n")
    head, *rows, over = table.splitlines()
    assert head.split() == ["adapter", "size", "update", "KL", "agreement", "accuracy", "gain"]
    assert [row.split("  ")[0] for row in rows] == ["no adapter", "teacher", str(half), str(place.packed)]
    assert rows[0].split()[-4:] == ["0.0", "%", "0.0", "%"]
    assert rows[1].split()[-4:] == ["66.7", "%", "100.0", "%"]
    assert rows[2].split()[-4:] == ["33.3", "%", "50.0", "%"]
    assert over == "over 6 texts"
    head, *rows, told = below.splitlines()
    assert head.split() == ["adapter", "against", "KL", "95", "%", "accuracy", "95", "%"]
    assert [row.split()[:2] for row in rows] == [
        [str(half), "teacher"], [str(place.packed), "teacher"], [str(half), str(place.packed)]
    ]  # fmt: skip
    assert rows[0].split()[-6:] == ["-33.3", "%", "-66.7", "to", "+0.0", "%"]
    assert told == "95 % intervals by 2,000 resamples of the texts"
    assert listing(place.base.parent) == before


def test_the_json_is_explained_and_what_the_library_finds(place: Workplace) -> None:
    values = place.eval(place.packed, "--label-field", "label", "--json").json
    assert values.keys() == documented("eval")
    examples = read_examples(place.data, label_field="label")
    found = evaluate(place.base, place.teacher, {str(place.packed): place.packed}, examples)
    assert values["rows"] == found.as_dict()["rows"]
    assert values["differences"] == found.as_dict()["differences"]
    assert values["differences"][0].keys() == {"name", "against", "metric", "distance"}
    assert values["rows"][1]["metrics"].keys() == {"accuracy", "macro F1", "MCC"}
    opened = read_header(place.packed)
    row = values["rows"][2]
    assert row["bytes"] == place.packed.stat().st_size
    assert row["update_bytes"] == row["bytes"] - opened.header_bytes - opened.parts["extras"]
    assert (values["kind"], values["metric"], values["texts"], values["samples"]) == ("classifier", "accuracy", 6, 6)


def test_without_labels_there_is_no_accuracy(place: Workplace) -> None:
    result = place.eval(place.packed)
    assert result.out.split("\n")[0].split() == ["adapter", "size", "update", "KL", "agreement"]


def test_another_metric_takes_the_place_of_the_main_one(place: Workplace) -> None:
    half = weakened(place.teacher, 0.5)
    words = (half, "--label-field", "label", "--metric", "macro-f1")
    result = place.eval(*words)
    assert result.code == 0, result.err
    table, below = result.out.split("\n\n")
    assert table.splitlines()[0].endswith("  agreement  macro F1     gain")
    assert below.splitlines()[0].split()[-4:] == ["macro", "F1", "95", "%"]
    values = place.eval(*words, "--json").json
    assert values["metric"] == "macro F1"
    assert [row["metric"] for row in values["rows"]] == [row["metrics"]["macro F1"] for row in values["rows"]]
    refused(place.eval(*words[:-1], "luck"), 2, "there is no metric 'luck'", "macro-f1")
    refused(place.eval(*words[:-1], "f1"), 2, "F1 is that of the second of two classes, the model has 3")
    refused(place.eval(half, "--metric", "mcc"), 2, "the data has no labels to tell the MCC by", "--label-field")


def test_the_help_names_every_metric(place: Workplace) -> None:
    hint = place.eval("--metric", "luck").err
    known = hint[hint.index("name one of ") + len("name one of ") :].strip().split(", ")
    assert len(known) == 9
    # Long lines are broken, at hyphens too.
    shown = "".join(run("eval", "--help").out.replace("│", " ").split())
    assert all(name in shown for name in known)


def test_what_needs_scikit_learn(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    words = ("--label-field", "label")
    refused(place.eval(*words, "--metric", "mcc"), 3, "scikit-learn", "pip install 'adaptzip[metrics]'")
    assert place.eval(*words, "--json").json["rows"][1]["metrics"].keys() == {"accuracy"}


def test_many_adapters_stay_readable(place: Workplace) -> None:
    many = [weakened(place.teacher, by) for by in (0.1, 0.2, 0.3, 0.4, 0.5)]
    words = (*many, "--label-field", "label")
    few = place.eval(*words).out.split("\n\n")[1].splitlines()
    assert [row.split()[:2] for row in few[1:-1]] == [[str(path), "teacher"] for path in many]
    assert few[-1].endswith("; 10 differences of two adapters with --verbose or --json")
    every = place.eval(*words, "--verbose").out.split("\n\n")[1].splitlines()
    assert len(every) == 1 + 15 + 1
    assert every[-1] == "95 % intervals by 2,000 resamples of the texts"
    assert len(place.eval(*words, "--json").json["differences"]) == 15


def test_nothing_is_less_than_nothing(place: Workplace) -> None:
    # A teacher that is as good as no adapter has nothing to keep, and rounding leaves no sign.
    same = place.eval("--teacher", weakened(place.teacher, 1e-9), "--label-field", "label", place.packed)
    assert [row.split()[-1] for row in same.out.splitlines()[1:4]] == ["-", "-", "-"]
    other = place.eval(weakened(place.teacher, 1e-6), "--label-field", "label")
    assert "-0.0" not in other.out
    assert "-0.0" not in place.eval(weakened(place.teacher, 0.0), "--label-field", "label", "--json").out


def test_a_language_model_is_scored_by_its_loss(tmp_path: Path) -> None:
    base, teacher = causal(tmp_path)
    data = write_rows(tmp_path / "rows.jsonl")
    result = run("eval", weakened(teacher, 0.5), "--teacher", teacher, "--base", base, "--data", data)
    assert result.code == 0, result.err
    assert result.out.splitlines()[0].split()[-2:] == ["loss", "gain"]
    assert "\nover 6 texts, 32 tokens\n" in result.out


def test_only_what_was_held_out(place: Workplace) -> None:
    words = ("--held-out", "0.4", "--seed", "3", "--label-field", "label", "--json")
    values = place.eval(place.packed, *words).json
    held = hold_out(read_examples(place.data, label_field="label"), 0.4, 3)[1]
    found = evaluate(place.base, place.teacher, {}, held)
    assert values["texts"] == len(held) < 6
    assert values["rows"][0]["kl"] == pytest.approx(found.as_dict()["rows"][0]["kl"])
    refused(place.eval("--held-out", "2"), 2, "the held-out share is 2")


def test_a_bare_file_takes_its_scale_from_alpha(place: Workplace) -> None:
    bare = place.base.parent / "bare.safetensors"
    shutil.copy(place.teacher / "adapter_model.safetensors", bare)
    refused(place.eval(bare), 2, "bare.safetensors", "alpha")
    same, half = (place.eval(bare, "--alpha", alpha, "--json").json["rows"][2] for alpha in ("6", "3"))
    assert same["kl"] == pytest.approx(0.0, abs=1e-9)
    assert half["kl"] > 1e-3
    config = place.teacher / "adapter_config.json"
    assert place.eval(bare, "--config", config, "--json").json["rows"][2]["kl"] == pytest.approx(0.0, abs=1e-9)
    refused(place.eval(place.packed, "--alpha", "6"), 2, "every adapter has its own configuration")


def test_eval_draws(place: Workplace) -> None:
    plot = place.base.parent / "sizes.png"
    words = (place.packed, place.teacher, "--label-field", "label", "--plot", plot)
    result = place.eval(*words)
    assert result.code == 0, result.err
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert result.last == f"wrote {plot}  2 adapters"
    refused(place.eval(*words), 2, "exists already")
    assert place.eval(*words, "-f", "--json").json["path"] == str(plot)
    drawn = place.base.parent / "sizes.svg"
    assert place.eval(place.packed, "--plot", drawn, "-q") == Result(0, "", "")
    assert drawn.read_bytes().startswith(b"<?xml")


def test_what_can_not_be_drawn_is_refused_before_the_work(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptzip.reports.evaluation.evaluate", lambda *_, **__: pytest.fail("it began to work"))
    refused(place.eval(place.packed, "--plot", place.base.parent / "a.txt"), 2, "png, svg, pdf")
    refused(place.eval("--plot", place.base.parent / "a.png"), 2, "nothing to draw")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(place.eval(place.packed, "--plot", place.base.parent / "a.png"), 3, "pip install 'adaptzip[plots]'")


def test_bad_input_is_one_line(place: Workplace) -> None:
    empty = place.base.parent / "empty.jsonl"
    empty.write_text("")
    broken = place.base.parent / "broken.adz"
    broken.write_bytes(place.packed.read_bytes()[:-9])
    refused(place.eval(place.base.parent / "nothing.adz"), 2, "nothing.adz")
    refused(place.eval(broken), 2, "broken.adz")
    refused(place.eval(place.packed, place.packed), 2, "given twice")
    refused(place.eval("--data", place.base.parent / "no.jsonl"), 2, "no.jsonl: does not exist")
    refused(place.eval("--data", empty), 2, "empty.jsonl")
    refused(place.eval("--text-field", "body"), 2, "body")
    refused(place.eval("--label-field", "class"), 2, "class")
    refused(place.eval("--label-field", "text"), 2, "none of the classes LABEL_0, LABEL_1, LABEL_2")
    refused(place.eval("--base", place.teacher), 2, "holds an adapter, expected a base model")
    refused(place.eval("--device", "tpu"), 2, "device 'tpu' is unknown")
    refused(place.eval("--task", "painter"), 2, "painter")
    refused(run("eval", place.packed), 2, "missing option")


def test_a_source_that_does_not_fit_the_base_is_named(place: Workplace) -> None:
    stranger = make_adapter(place.base.parent / "stranger")
    refused(place.eval(stranger), 2, f"{stranger}: ", "model.layers.0.self_attn.q_proj", "base model")


def test_fields_and_what_counts_are_options(tmp_path: Path) -> None:
    base, teacher = causal(tmp_path)
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "a b", "completion": " c d"}\n{"prompt": "c", "completion": " e f"}\n')
    words = ("eval", "--teacher", teacher, "--base", base, "--data", data)
    assert run(*words).out.splitlines()[-1] == "over 2 texts, 4 tokens"
    assert run(*words, "--score", "all").out.splitlines()[-1] == "over 2 texts, 7 tokens"
    values = run(*words, "--merged", "--json").json
    assert (values["tokeniser"], values["merged"], values["second"]) == (str(base), True, None)
    refused(run(*words, "--label-field", "completion"), 2, "a model for causal has no use for labels")
    refused(run(*words, "--text-pair-field", "completion"), 2, "name both: --text-field and --text-pair-field")
    refused(run(*words, "--text-field", "prompt", "--text-pair-field", "completion"), 2, "reads no pairs")


def test_the_tokeniser_is_told_where_it_is_the_teachers(tmp_path: Path) -> None:
    base, teacher = causal(tmp_path)
    shutil.copy(base / "tokenizer.json", teacher)
    shutil.copy(base / "tokenizer_config.json", teacher)
    result = run("eval", "--teacher", teacher, "--base", base, "--data", write_rows(tmp_path / "rows.jsonl"))
    assert result.out.splitlines()[-1] == f"with the tokeniser of {teacher}"


def test_a_completion_is_named(tmp_path: Path) -> None:
    base, teacher = causal(tmp_path)
    rows = [("a b c", " d e"), ("f e", " a"), ("c c b", " b a d")]
    usual, named = tmp_path / "usual.jsonl", tmp_path / "named.jsonl"
    for path, keys in ((usual, ("prompt", "completion")), (named, ("instruction", "output"))):
        path.write_text("".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows))
    words = ("eval", "--teacher", teacher, "--base", base, "--data")
    found = run(*words, named, "--text-field", "instruction", "--completion-field", "output", "--json").json
    assert found["rows"] == run(*words, usual, "--json").json["rows"]
    assert found["samples"] == 6
    refused(run(*words, named), 2, "--completion-field")
    out = tmp_path / "x.adz"
    training = ("-o", out, "--budget", "60%", "--steps", "4", "--batch-size", "2", "--held-out", "0.4")
    fields = ("--text-field", "instruction", "--completion-field", "output")
    told = []
    for data, more in ((named, fields), (usual, ())):
        given = ("--teacher", teacher, "--base", base, "--data", data)
        result = run("distill", *given, *more, *training, "-f", "--json")
        assert result.code == 0, result.err
        told.append([{**row, "seconds": None} for row in result.json["rows"]])
    assert told[0] == told[1]


def test_rows_of_the_hub_are_those_of_a_file(place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="the extra data is not installed")
    rows = [json.loads(line) for line in place.data.read_text().splitlines()]
    expected = place.eval(place.packed, "--label-field", "label").out
    with serving_sets({"datasets/some/rows": {"test.parquet": parquet(rows)}}, tmp_path, monkeypatch):
        found = place.eval(place.packed, "--label-field", "label", "--data", "some/rows:test")
    assert (found.out, found.err) == (expected, "reading some/rows:test from the Hub\n")
