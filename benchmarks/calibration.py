"""What calibration is worth: teacher-student KL at equal bytes, with and without it.

Three adapters: the language-identification fixture and the TREC classifier of the material, both on all-MiniLM-L6-v2,
and a LoRA that is trained here on the story model of the material. Each is compressed to several sizes without
calibration and with one on texts of its task, and held against itself on other texts of its task. Bytes are
those of the update's whole file; heads are left out, as they are equal in both.

The bar: at every size the KL is lower with calibration. Exits 1 when one is missed.

    python -m benchmarks.calibration [ADAPTER ...] [--material FOLDER] [--json] [--write]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import adaptzip
from adaptzip.core.adapter import Adapter
from adaptzip.core.budget import Budget
from adaptzip.errors import without_warnings
from adaptzip.fitting.calibration import Calibration, calibrate
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Request, prepare_job
from adaptzip.fitting.running import run
from adaptzip.restoring.reconstruction import reconstruct
from benchmarks import causal_adapter, page, texts
from benchmarks.distance import distance
from benchmarks.stories import stories_base

ROOT = Path(__file__).parent.parent
MATERIAL = ROOT / ".." / "shared" / "material"
MAX_TOKENS = 96
CALIBRATION_TEXTS = 256


@dataclass(frozen=True, eq=False)
class Case:
    """An adapter with texts to calibrate on, others to measure on, and sizes in bytes."""

    base: Path
    adapter: Adapter
    calibration: Sequence[str]
    test: Sequence[str]
    sizes: Sequence[int]


@dataclass(frozen=True)
class Row:
    """One adapter at one size.

    Attributes:
        estimate: what calibration believed (`adaptzip.fitting.calibration.Calibration.estimate`).
        plain_kl, calibrated_kl: KL divergence from student to teacher in nats, per text or per token.
        plain_agreement, calibrated_agreement: share of equal decisions.
        plain_error, calibrated_error: relative error of the update.
    """

    adapter: str
    estimate: str
    bytes: int
    plain_kl: float
    calibrated_kl: float
    plain_agreement: float
    calibrated_agreement: float
    plain_error: float
    calibrated_error: float

    @property
    def met(self) -> bool:
        return self.calibrated_kl < self.plain_kl


def langid(material: Path) -> Case:
    from fixtures.langid import load_rows
    from fixtures.names import base_model_folder

    rows = load_rows()
    train, held_out = ([row.text for row in part] for part in (rows.train, rows.held_out))
    adapter = adaptzip.read(ROOT / "fixtures" / "langid-minilm-r16")
    sizes = (16_000, 32_000, 64_000)
    return Case(base_model_folder(), adapter, train[:CALIBRATION_TEXTS], held_out[:500], sizes)


def trec(material: Path) -> Case:
    from fixtures.names import base_model_folder

    train, test = ([row.text for row in part] for part in texts.trec(material))
    adapter = adaptzip.read(material / "adapters" / "minilm-trec-r8")
    return Case(base_model_folder(), adapter, train[:CALIBRATION_TEXTS], test[:500], (3_000, 5_000, 9_000))


def stories(material: Path) -> Case:
    base = stories_base(material)
    pieces = texts.shakespeare(material)
    adapter = causal_adapter.train(base, pieces[:375])
    return Case(base, adapter, pieces[375 : 375 + CALIBRATION_TEXTS], pieces[-100:], (4_000, 8_000, 16_000))


CASES: dict[str, Callable[[Path], Case]] = {
    "langid-minilm-r16": langid,
    "minilm-trec-r8": trec,
    "stories260k-shakespeare-r8": stories,
}


def measure(name: str, case: Case) -> Iterator[Row]:
    """One adapter at all its sizes."""
    for size in case.sizes:
        plain = compressed(case.adapter, size, {})
        found = calibration_of(case, size, plain.provenance.relative_error)
        weighted = compressed(case.adapter, size, found.sensitivities)
        students = [reconstruct(made) for made in (plain, weighted)]
        apart = [distance(case.base, case.adapter, student, case.test, max_tokens=MAX_TOKENS) for student in students]
        errors = [made.provenance.relative_error for made in (plain, weighted)]
        kls = [one.kl or 0.0 for one in apart]
        agreements = [one.agreement or 0.0 for one in apart]
        yield Row(name, found.estimate, size, *kls, *agreements, *errors)


def calibration_of(case: Case, size: int, error: float) -> Calibration:
    """The calibration for a file of a size, whose relative error is about this."""

    def copy(sensitivities: adaptzip.fitting.calibration.Sensitivities) -> Adapter:
        return reconstruct(compressed(case.adapter, size, sensitivities))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in case.calibration), encoding="utf-8")
        return calibrate(
            case.base, case.adapter, path, max_tokens=MAX_TOKENS, device="cpu", error=error, compressed=copy
        )


def compressed(
    adapter: Adapter, size: int, sensitivities: adaptzip.fitting.calibration.Sensitivities
) -> adaptzip.Compressed:
    """`adaptzip.compress` of the update alone."""
    request = Request(budget=Budget.parse(f"{size}B"), device="cpu")
    source = load_source(replace(adapter, extras={}), request)
    with without_warnings():
        return run(prepare_job(replace(source, sensitivities=sensitivities), request)).compressed


def as_table(rows: Sequence[Row]) -> str:
    head = ["adapter", "bytes", "KL plain", "KL calibrated", "share", "agreement plain", "agreement calibrated"]
    head += ["error plain", "error calibrated", "estimate"]
    return page.table(
        head,
        [
            [
                row.adapter,
                f"{row.bytes:,}",
                f"{row.plain_kl:.4f}",
                f"{row.calibrated_kl:.4f}",
                f"{row.calibrated_kl / row.plain_kl:.2f}",
                f"{row.plain_agreement:.1%}",
                f"{row.calibrated_agreement:.1%}",
                f"{row.plain_error:.3f}",
                f"{row.calibrated_error:.3f}",
                row.estimate,
            ]
            for row in rows
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", nargs="*", choices=[[], *CASES], help="which adapters; all unless given")
    parser.add_argument("--material", type=Path, default=MATERIAL, help="folder of real adapters, models and data")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help=f"put the table into {page.PAGE.name}")
    options = parser.parse_args(arguments)
    rows = []
    for name in options.adapter or CASES:
        for row in measure(name, CASES[name](options.material)):
            print(f"{row.adapter} {row.bytes}: {row.plain_kl:.4f} {row.calibrated_kl:.4f}", file=sys.stderr, flush=True)
            rows.append(row)
    print(json.dumps([asdict(row) for row in rows]) if options.json else as_table(rows))
    if options.write:
        page.put("calibration", as_table(rows))
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
