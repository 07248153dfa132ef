"""The reference is true: the generated page is current, and every JSON key is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from checks.cli_reference import PAGE, reference
from tests.cli.cli_cases import ROOT, run


def test_the_generated_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run python -m checks.cli_reference"


def documented(section: str) -> set[str]:
    page = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    first_cells = (line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    return {key for cell in first_cells for key in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("compress", "compress {adapter} -f"),
        ("compress", "compress {adapter} --lossless -n"),
        ("compress", "compress {adapter} --to loretta --max-error 0.5 -f"),
        ("plan", "plan {adapter} --to svd"),
        ("plan", "plan {adapter} --to svd -o {adapter}.json"),
        ("bench", "bench {adapter} --to svd -b 50%"),
        ("inspect a .adz", "inspect {archive}"),
        ("inspect a checkpoint", "inspect {adapter}"),
        ("verify", "verify {archive}"),
        ("verify", "verify {archive} --against {adapter} --max-error 1"),
        ("export", "export {archive} -o {adapter}-2"),
        ("export", "export {archive} -o {adapter}-2 -n"),
        ("convert", "convert {adapter} {adapter}-2 --rank 1"),
        ("convert", "convert {archive} {adapter}-2 -n"),
        ("combine", "combine {adapter} {archive}:0.5 -o {adapter}-2 --drop-extras"),
        ("combine", "combine {adapter} -o {adapter}-2.adz -n"),
        ("merge", "merge {archive} --base {base} -o {adapter}-2"),
        ("merge", "merge {archive} --base {base} -o {adapter}-2 -n"),
        ("diff", "diff {archive} {adapter}"),
        ("methods", "methods"),
        ("methods NAME", "methods svd"),
    ],
)
def test_every_key_is_explained(section: str, words: str, adapter: Path, archive: Path, base: Path) -> None:
    filled = [word.format(adapter=adapter, archive=archive, base=base) for word in words.split()]
    assert run(*filled, "--json").json.keys() == documented(section)


@pytest.mark.parametrize("output", ["made", "made.adz"])
def test_every_key_of_an_extraction_is_explained(output: str, archive: Path, base: Path, tmp_path: Path) -> None:
    assert run("merge", archive, "--base", base, "-o", tmp_path / "tuned").code == 0
    values = run("extract", "--base", base, "--tuned", tmp_path / "tuned", "-o", tmp_path / output, "--json").json
    assert values.keys() == documented("extract")


def test_a_dry_run_leaves_out_what_is_not_known_yet(adapter: Path) -> None:
    values = run("compress", adapter, "-n", "--json").json
    unknown = {"modules", "module_bytes", "extras", "extras_bytes", "seed"}
    assert values.keys() == documented("compress") - unknown


SUBJECT = (
    "method options parameters relative_error modules kept_modules module_bytes extras extras_bytes lossless seed start"
)
NOTHING_BESIDE = "captured_energy basis_bytes tried reference weighted_error"
FORESEEN = "method options parameters relative_error kept_modules lossless start"


@pytest.mark.parametrize(
    ("words", "order"),
    [
        ("-f", f"path {SUBJECT} weighted_error captured_energy basis_bytes tried reference bytes source_bytes ratio"),
        ("-f --lossless", f"path {SUBJECT} {NOTHING_BESIDE} bytes source_bytes ratio"),
        ("-n --lossless", f"{SUBJECT} {NOTHING_BESIDE} bytes path source_bytes ratio"),
        ("-n", f"{NOTHING_BESIDE} {FORESEEN} bytes path source_bytes ratio"),
        ("-n --to auto -b 50%", f"{NOTHING_BESIDE} {FORESEEN} bytes path source_bytes ratio"),
    ],
)
def test_the_keys_of_compress_keep_their_order(words: str, order: str, adapter: Path) -> None:
    values = run("compress", adapter, *words.split(), "--json").json
    assert list(values) == ["schema", *order.split(), "dry_run"]
