"""The table of a language model: what others' coders are given, and what is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.comparing import diff
from benchmarks import gain_picture, other_coders, page, smollm2
from benchmarks.gain_picture import Style
from benchmarks.other_coders import Coded
from benchmarks.peers.drivers.exchange import Arrays
from benchmarks.peers.environments import Answer, Environments, PeerAbsentError
from benchmarks.peers.packages import Package
from benchmarks.smollm2 import METHODS, NOTHING, TEACHER, Row
from benchmarks.storage import error_of
from benchmarks.word_task import Answers


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    generator = torch.Generator().manual_seed(0)
    return Adapter(
        {
            name: LoraFactors(
                torch.randn(3, 16, generator=generator), torch.randn(out, 3, generator=generator), scaling=2.0
            )
            for name, out in {"layers.0.q": 16, "layers.0.v": 8, "layers.1.q": 16, "layers.1.v": 8}.items()
        }
    )


def test_stacked_rows_give_the_factors_back(adapter: Adapter) -> None:
    stacks = other_coders.stacked(adapter)
    assert {name: tuple(rows.shape) for name, rows in stacks.items()} == {"A16": (12, 16), "B16": (6, 16), "B8": (6, 8)}
    assert diff(adapter, other_coders.unstacked(adapter, stacks)).relative_error == 0


def test_scaled_factors_are_the_same_update(adapter: Adapter) -> None:
    seen = []

    def coder(given: Adapter, limit: int) -> Coded:
        seen.append((given, limit))
        return Coded(given, limit, "")

    coded = other_coders.in_scaled_factors(coder, adapter, 7)
    assert diff(adapter, coded.adapter).relative_error == pytest.approx(0, abs=1e-5)
    ((given, limit),) = seen
    assert limit == coded.bytes == 7
    for module in given.modules.values():
        assert torch.allclose(module.A.norm(dim=1), module.B.norm(dim=0), rtol=1e-4)


def test_a_component_whose_row_is_lost_is_nothing(adapter: Adapter) -> None:
    def coder(given: Adapter, _: int) -> Coded:
        lost = {n: LoraFactors(m.A, torch.zeros_like(m.B), m.scaling) for n, m in given.modules.items()}
        return Coded(Adapter(lost), 0, "")

    assert diff(adapter, other_coders.in_scaled_factors(coder, adapter, 0).adapter).relative_error == 1


class Steps(Environments):
    """A coder that rounds to a step: 100 bytes at step 1, and as many more as the step is finer."""

    def ask(self, package: Package, arrays: Arrays, settings: Sequence[Any]) -> list[Answer]:
        (setting,) = settings
        step = 2 ** (setting / 4) if package.name == "NNCodec" else 1 / setting
        return [Answer(round(100 / step), {name: (array / step).round() * step for name, array in arrays.items()})]


@pytest.mark.parametrize(
    ("limit", "how", "size"), [(400, "qp -8", 400), (399, "qp -7", 336), (50, "qp 0", 100), (10**6, "qp -44", 204800)]
)
def test_nncodec_is_asked_for_the_finest_that_fits(adapter: Adapter, limit: int, how: str, size: int) -> None:
    coded = other_coders.nncodec(Steps(), adapter, limit)
    assert (coded.how, coded.bytes) == (how, size)


def test_entropack_is_asked_for_the_most_bits_that_fit(adapter: Adapter) -> None:
    coded = other_coders.entropack(Steps(), adapter, 300)
    assert 295 <= coded.bytes <= 300
    assert error_of(adapter, coded.adapter.modules) < 0.5


def test_half_counts_numbers_alone(adapter: Adapter) -> None:
    coded = other_coders.half(adapter)
    assert coded.bytes == 2 * adapter.parameters
    assert 0 < (diff(adapter, coded.adapter).relative_error or 0) < 1e-3


def test_answers_by_hand() -> None:
    teacher = Answers(torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log(), torch.tensor([0, 1]))
    student = Answers(torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log(), torch.tensor([1, 0]))
    assert student.accuracy == 1
    expected = torch.tensor([2.0, 2 / 3]).log().mean() / 2
    assert student.kl(teacher) == pytest.approx(float(expected), rel=1e-5)


def rows() -> list[Row]:
    """A row for each size of each method, all of half the gain."""
    made = [
        Row(name, asked, 1000 + asked, 0.5, 0.1, 0.5, "", 1.0)
        for name, method in METHODS.items()
        for asked in method.sizes
    ]
    return [Row(NOTHING, 0, 0, 0.3, 1.0, 1.0, "", 0.0), Row(TEACHER, 0, 8000, 0.7, 0.0, 0.0, "float32", 0.0), *made]


def test_gain_and_table() -> None:
    found = rows()
    assert {round(smollm2.gain(row, found), 6) for row in found} == {0.0, 0.5, 1.0}
    written = smollm2.table(found)
    assert len(written.splitlines()) == 2 + len(found)
    assert "| PEFT save_as_lora | 1,001 | 1/4 | 50.0 % | 50.0 % |" in written


def test_nothing_is_written_while_a_row_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that is not installed is left out, and its old rows stay on the page."""
    results = tmp_path / "rows.jsonl"
    kept = [row for row in rows() if row.method != "entropack"]
    results.write_text("".join(json.dumps(asdict(row)) + "\n" for row in kept))
    monkeypatch.setattr(smollm2, "Task", lambda material: None)

    def absent(task: object, name: str, asked: int) -> Row:
        raise PeerAbsentError(f"{name}: expected an environment")

    monkeypatch.setattr(smollm2, "measure", absent)
    assert smollm2.main(["--results", str(results), "--write"]) == 1
    told = capsys.readouterr().err
    assert "entropack is left out: entropack: expected an environment" in told
    assert "nothing is written: rows of entropack are missing" in told


def test_a_picture_for_each_ground(tmp_path: Path) -> None:
    lines = {"one": [(2048, 0.9), (1024, 0.5)], "two": [(4096, 1.0)]}
    styles = {"one": Style("#2f81f7", "o"), "two": Style("#848d97", "*")}
    light, dark = gain_picture.write(tmp_path / "made" / "gain", lines, styles)
    assert light.read_text().startswith("<?xml")
    assert light.read_text() != dark.read_text()
    before = light.read_bytes()
    gain_picture.write(tmp_path / "made" / "gain", lines, styles)
    assert light.read_bytes() == before


def test_the_page_shows_both_pictures() -> None:
    for text, folder in ((page.PAGE, "images"), (page.DOCS.parent / "README.md", "docs/images")):
        for ground in gain_picture.GROUNDS:
            assert f"{folder}/{smollm2.PICTURE.name}-{ground}.svg" in text.read_text(encoding="utf-8")
