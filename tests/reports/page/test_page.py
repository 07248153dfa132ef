"""A page says what the files are: its numbers are those of `verify`, and no name in a file becomes markup."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import OutputError, RefusedError, UsageError
from adaptzip.reports.page import heat, subjects
from tests.cases.evaluation_cases import classifier
from tests.cli.cli_cases import refused, run

_VOID = {"meta", "br", "img"}


class _Page(HTMLParser):
    """The tags of a page, and whether each that was opened is closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    classifier(tmp_path)
    return tmp_path / "my-adapter"


def random_adapter(names: Sequence[str], *, size: int) -> Adapter:
    """Square modules of rank 4."""
    generator = torch.Generator().manual_seed(0)
    drawn = {name: [torch.randn(4, size, generator=generator) for _ in range(2)] for name in names}
    return Adapter({name: LoraFactors(A, B.T.contiguous(), 1.0) for name, (A, B) in drawn.items()}, {})


def _page(path: Path) -> _Page:
    found = _Page(path.read_text(encoding="utf-8"))
    # Nothing is loaded: what links there are lead to other parts of a drawing.
    assert all(link.startswith("#") for link in found.links)
    assert "script" not in found.seen
    return found


def test_the_page_has_the_numbers_of_the_files(source: Path, tmp_path: Path) -> None:
    files = []
    for name, options in (("a.adz", {}), ("b.adz", {"extras": "int8"}), ("c.adz", {"to": "vblora"})):
        adaptzip.compress(source, tmp_path / name, max_error=0.3, **options)  # type: ignore[arg-type]
        files.append(tmp_path / name)
    found = adaptzip.report(files, tmp_path / "page.html", against=source)
    text = " ".join(_page(tmp_path / "page.html").text)
    assert found.files == ("a.adz", "b.adz", "c.adz")
    assert set(found.benches) == {"lossless", "int8"}
    for path in files:
        checked = adaptzip.verify(path, source)
        assert checked.measured_error is not None
        assert f"{checked.measured_error:.3g}" in text
        for module in checked.modules:
            assert module.name in text
    assert "wins" in text
    for heading in ("Error over bytes", "Where the bytes are", "Energy, module", "Relative error, module", "Singular"):
        assert heading in text


def test_equal_files_give_equal_pages(source: Path, tmp_path: Path) -> None:
    adaptzip.compress(source, tmp_path / "a.adz", budget="20%")
    for name in ("1.html", "2.html"):
        adaptzip.report(tmp_path / "a.adz", tmp_path / name, against=source)
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()


def test_a_checkpoint_has_a_page_too(source: Path, tmp_path: Path) -> None:
    found = adaptzip.report(source, tmp_path / "page.html", methods=["svd", "vblora"])
    (bench,) = found.benches.values()
    assert {point.method for point in bench.points} == {"svd", "vblora"}
    (one,) = [subjects.subject(source, "x", None, base=None, basis=None)]
    assert sum(size for _, size in one.parts) == one.bytes == (source / "adapter_model.safetensors").stat().st_size
    assert "Relative error, module" not in " ".join(_page(tmp_path / "page.html").text)


def test_heat_maps_add_up_to_the_file(tmp_path: Path) -> None:
    source = random_adapter([f"layer.{layer}.{kind}" for layer in range(4) for kind in ("q", "v")], size=256)
    made = adaptzip.compress(source, max_error=0.1)
    # A block for each module, as in larger files.
    dataclasses.replace(made, grouped=b"").save(tmp_path / "a.adz")
    one = subjects.subject(tmp_path / "a.adz", "a", source, base=None, basis=None)
    parts = dict(one.parts)
    known = [module.bytes for module in one.modules if module.bytes is not None]
    assert len(known) == len(one.modules)
    assert sum(known) == parts["modules"]
    assert sum(parts.values()) == one.bytes
    shown = {section.measure.title: section for section in heat.sections([one])}
    assert set(shown) == {"Bytes", "Bits a number", "Energy", "Relative error"}
    hottest = [
        cell.heat
        for grid in shown["Energy"].files["a"]
        for _, row in grid.rows
        for cell in row
        if cell.heat is not None
    ]
    assert max(hottest) == 1
    energy = sum(module.reference or 0 for module in one.modules)
    assert one.relative_error == pytest.approx(
        (sum((module.error or 0) ** 2 for module in one.modules) / energy) ** 0.5
    )


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "a$b$c", "_a", "{{ 7 * 7 }}", "</style><b>", "&amp;\u202e"]
)
def test_names_are_text(name: str, tmp_path: Path) -> None:
    adapter = random_adapter([f"layer.0.{name}", "layer.1.q"], size=16)
    packed = tmp_path / f"{name.replace('/', '_')}.adz"
    adaptzip.compress(adapter, packed, max_error=0.5)
    adaptzip.report(packed, tmp_path / "page.html", against=adapter, title=name)
    page = _page(tmp_path / "page.html")
    assert "img" not in page.seen
    assert "b" not in page.seen
    told = " ".join(page.text)
    assert f"layer.0.{name}" in told


def test_an_evaluation_is_shown_and_anything_else_refused(source: Path, tmp_path: Path) -> None:
    adaptzip.compress(source, tmp_path / "a.adz", budget="20%")
    told = {
        "kind": "classifier", "metric": "accuracy", "second": None, "samples": 40, "differences": [],
        "rows": [
            {"name": "teacher", "bytes": None, "kl": 0.0, "metric": 0.875, "gain": 1.0},
            {"name": "a.adz", "bytes": 1234, "kl": 0.25, "metric": None, "gain": None},
        ],
    }  # fmt: skip
    (tmp_path / "eval.json").write_text(json.dumps(told))
    words = ("report", tmp_path / "a.adz", "--no-frontier", "-o", tmp_path / "page.html", "--evaluation")
    assert run(*words, tmp_path / "eval.json").code == 0
    text = " ".join(_page(tmp_path / "page.html").text)
    for said in ("88 %", "1.2 KiB", "0.25", "40 samples of a classifier model"):
        assert said in text
    for content in ("{}", "[]", "no", '{"rows": 3, "metric": null}', '{"rows": [1], "metric": null}', "[" * 100_000):
        (tmp_path / "eval.json").write_text(content)
        refused(run(*words, tmp_path / "eval.json", "-f"), 2, "eval.json")
    refused(run(*words, tmp_path / "missing.json", "-f"), 2, "missing.json")
    row = {"name": "\ud800", "bytes": None, "metric": None, "gain": None}
    for wrong in ({"bytes": float("inf")}, {"gain": 10**400}, {"gain": [1]}):
        (tmp_path / "eval.json").write_text(json.dumps(told | {"rows": [row | wrong]}))
        refused(run(*words, tmp_path / "eval.json", "-f"), 2, "eval.json")
    (tmp_path / "eval.json").write_text(json.dumps(told | {"rows": [row]}))
    assert run(*words, tmp_path / "eval.json", "-f").code == 0


def test_pages_are_refused_before_anything_is_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.html"
    adaptzip.report(source, page, frontier=False)
    with pytest.raises(OutputError, match="exists already"):
        adaptzip.report(source, page)
    with pytest.raises(UsageError, match="no file"):
        adaptzip.report([], tmp_path / "other.html")
    with pytest.raises(UsageError, match="named twice"):
        adaptzip.report([source, source], tmp_path / "other.html")
    with pytest.raises(UsageError, match="svdd"):
        adaptzip.report(source, tmp_path / "other.html", methods=["svdd"])
    refused(run("report", source, tmp_path / "nosuch", "-o", tmp_path / "other.html"), 2, "nosuch")
    refused(run("report", source, "-o", source / "adapter_config.json", "-f"), 2, "source")
    monkeypatch.setattr("adaptzip.reports.page.writing.find_spec", lambda name: None)
    with pytest.raises(RefusedError, match="needs matplotlib and jinja2"):
        adaptzip.report(source, tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_files_of_one_name_are_told_apart(source: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        adaptzip.compress(source, tmp_path / folder / "a.adz", budget="20%")
    found = adaptzip.report([tmp_path / "one" / "a.adz", tmp_path / "two" / "a.adz"], tmp_path / "page.html")
    assert found.files == ("one/a.adz", "two/a.adz")
    assert found.benches == {}


def test_updates_that_are_zero_have_a_page(source: Path, tmp_path: Path) -> None:
    weights = load_file(source / "adapter_model.safetensors")
    save_file(
        {name: torch.zeros_like(tensor) if "lora_B" in name else tensor for name, tensor in weights.items()},
        source / "adapter_model.safetensors",
    )
    adaptzip.report(source, tmp_path / "page.html")
    text = " ".join(_page(tmp_path / "page.html").text)
    assert "Singular values" not in text
