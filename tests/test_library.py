"""The library as its users call it: in memory, from several threads and processes, and with a slip of the pen."""

from __future__ import annotations

import io
import logging
import pickle
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import adaptzip
from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter
from adaptzip.core.compressed import Compressed
from adaptzip.core.meta import Meta
from adaptzip.core.words import size
from adaptzip.errors import AdaptzipWarning, FormatError, RefusedError, UsageError, warn, without_warnings
from adaptzip.reports.inspecting import inspect
from adaptzip.testing.adapters import adapter
from tests.cases.evaluation_cases import classifier

SOURCE = adapter([(48, 64, 6), (64, 32, 4)])
FUNCTIONS = [
    name
    for name in adaptzip.__all__
    if callable(getattr(adaptzip, name)) and not isinstance(getattr(adaptzip, name), type)
]
NEEDED: dict[str, dict[str, Any]] = {
    "compress": {"source": SOURCE},
    "plan": {"source": SOURCE},
    "distill": {"teacher": SOURCE, "base": "base", "data": "self"},
}
"""What functions that take a method's options are given before these are looked at."""
small = partial(adaptzip.compress, budget="25%", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's folder, and beside it its base."""
    found = tmp_path_factory.mktemp("library")
    classifier(found)
    return found / "my-adapter"


@pytest.fixture(scope="module")
def made() -> Compressed:
    return small(SOURCE)


def same(one: Adapter, other: Adapter) -> bool:
    return adaptzip.diff(one, other).same


def test_a_file_is_its_bytes(made: Compressed, tmp_path: Path) -> None:
    assert made.save(tmp_path / "x.adz") == made.bytes == (tmp_path / "x.adz").stat().st_size
    content = (tmp_path / "x.adz").read_bytes()
    assert made.to_bytes() == content
    with (tmp_path / "x.adz").open("rb") as handle:
        sources: list[Any] = [content, bytearray(content), io.BytesIO(content), handle, str(tmp_path / "x.adz")]
        for source in sources:
            opened = adaptzip.open(source)
            assert opened.to_bytes() == content
            assert same(adaptzip.reconstruct(opened), adaptzip.reconstruct(made))
    with pytest.raises(adaptzip.AdaptzipError, match="exists"):
        made.save(tmp_path / "x.adz")
    made.save(tmp_path / "x.adz", force=True)


def test_damaged_bytes_are_refused(made: Compressed) -> None:
    content = bytearray(made.to_bytes())
    content[-1] ^= 1
    for source, where in ((bytes(content), "the bytes"), (io.BytesIO(content), "the file")):
        with pytest.raises(FormatError, match=f"^{where}: the file is damaged"):
            adaptzip.reconstruct(adaptzip.open(source))
    with pytest.raises(FormatError, match="^the bytes: the file is empty"):
        adaptzip.open(b"")
    with pytest.raises(UsageError, match="open for reading text"):
        adaptzip.open(io.StringIO("x"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a list can't be opened"):
        adaptzip.open([])  # type: ignore[arg-type]


@pytest.mark.parametrize("dialect", ["peft", "mlx"])
def test_a_state_dict_is_what_the_file_holds(dialect: str, tmp_path: Path) -> None:
    adaptzip.export(SOURCE, tmp_path / "out", as_=dialect)
    (file,) = (tmp_path / "out").glob("*.safetensors")
    ours, theirs = SOURCE.state_dict(dialect), load_file(file)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert {t.dtype for t in SOURCE.state_dict(dialect, dtype=torch.float16).values()} == {torch.float16}


def test_a_state_dict_has_what_the_dialect_can_hold(folder: Path) -> None:
    found = adaptzip.read(folder)
    assert "base_model.model.classifier.weight" in found.state_dict()
    with pytest.raises(RefusedError, match="MLX"):
        found.state_dict("mlx")
    assert len(found.state_dict("mlx", drop_extras=True)) == 2 * len(found.modules)
    for dialect, why in (("gguf", "is not one safetensors file"), ("peft-vblora", "a method's own tensors")):
        with pytest.raises(UsageError, match=why):
            found.state_dict(dialect)
    with pytest.raises(UsageError, match="'magic'"):
        found.state_dict("magic")
    with pytest.raises(UsageError, match="no dtype torch.int8"):
        found.state_dict(dtype=torch.int8)


def test_results_can_be_pickled(made: Compressed, folder: Path, tmp_path: Path) -> None:
    for one in (made, small(folder, tmp_path / "x.adz"), adaptzip.open(tmp_path / "x.adz")):
        assert pickle.loads(pickle.dumps(one)).to_bytes() == one.to_bytes()
    read = adaptzip.read(folder)
    again = pickle.loads(pickle.dumps(read))
    assert same(read, again)
    assert again.meta == read.meta
    assert again.resolved == read.resolved
    for report in reports(made, folder, tmp_path / "x.adz"):
        assert repr(pickle.loads(pickle.dumps(report))) == repr(report)


def reports(made: Compressed, folder: Path, file: Path) -> list[Any]:
    """A result of every kind."""
    return [
        adaptzip.plan(folder, budget="25%", device="cpu"),
        adaptzip.bench(folder, methods=["svd"], budgets=["25%"], device="cpu"),
        adaptzip.inspect(folder),
        adaptzip.inspect(SOURCE),
        adaptzip.verify(file, folder),
        adaptzip.diff(folder, file),
        adaptzip.export(file, file.parent / "exported", force=True),
        adaptzip.convert(folder, file.parent / "converted", rank=1, force=True),
        adaptzip.merge(folder, folder.parent / "base-model", file.parent / "merged", force=True),
        adaptzip.check(file.parent / "merged", folder.parent / "base-model", folder),
        adaptzip.evaluate(folder.parent / "base-model", folder, {"small": file}, ["a b c", "d e f"], device="cpu"),
    ]


def test_every_result_is_shown_in_one_line(made: Compressed, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.adz"
    small(folder, file)
    read = adaptzip.read(folder)
    shown = [made, adaptzip.open(file), read, read.meta, *read.modules.values(), inspect(file)]
    for result in [*shown, *reports(made, folder, file)]:
        line = repr(result)
        assert "\n" not in line
        assert 8 < len(line) < 240, line
        assert line.startswith(f"{type(result).__name__}(")
        assert "tensor" not in line or "tensors" in line
    ratio, error = made.provenance.source_bytes / made.bytes, made.provenance.relative_error
    assert repr(made) == f"Compressed(svd, {size(made.bytes)}, {ratio:.1f}x, error {error:.3g}, 2 modules)"


def test_notebooks_show_tables(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.adz"
    small(folder, file)
    name = "bert.encoder.layer.0.attention.self.query"
    for result in (
        adaptzip.read(folder),
        adaptzip.inspect(folder),
        adaptzip.inspect(file),
        adaptzip.diff(folder, file),
    ):
        shown = result._repr_html_()
        assert shown is not None
        assert shown.count("<tr>") == 1 + len(adaptzip.read(folder).modules)
        assert f"<td>{name}</td>" in shown
    hostile = Adapter({"<script>": SOURCE.modules["m.0"]})
    assert "<script>" not in str(hostile._repr_html_())
    assert adaptzip.open(file)._repr_html_() is None


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_slip_of_the_pen_is_told(name: str) -> None:
    with pytest.raises(UsageError, match="has no parameter 'zzz'") as caught:
        getattr(adaptzip, name)(zzz=1, **NEEDED.get(name, {}))
    assert str(caught.value.hint).startswith("it")
    if name in ("compress", "convert", "distill", "export", "merge"):
        with pytest.raises(UsageError, match="has no parameter 'forse'") as caught:
            getattr(adaptzip, name)(forse=True, **NEEDED.get(name, {}))
        assert caught.value.hint == "did you mean 'force'?"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_can_be_sent_to_a_process(name: str) -> None:
    function = getattr(adaptzip, name)
    assert pickle.loads(pickle.dumps(function)) is function


def test_a_pool_of_processes_returns_results(folder: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = pool.submit(adaptzip.compress, folder, budget="25%", device="cpu").result()
    assert there.to_bytes() == small(folder).to_bytes()


def test_threads_give_equal_bytes() -> None:
    sources = [adapter([(24, 32, 4)] * n) for n in (1, 2, 3)] * 2
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(small, sources))
    assert [one.to_bytes() for one in found] == [small(source).to_bytes() for source in sources]


def test_options_are_given_by_name_or_as_a_mapping() -> None:
    by_name = adaptzip.compress(SOURCE, to="loretta", max_error=0.95, device="cpu", rank=1)
    given = adaptzip.compress(SOURCE, to="loretta", max_error=0.95, device="cpu", options={"rank": 1})
    assert given.to_bytes() == by_name.to_bytes()
    with pytest.raises(UsageError, match="'rank' is given by name and in options"):
        small(SOURCE, to="loretta", rank=1, options={"rank": 1})
    with pytest.raises(UsageError, match="expected a mapping"):
        small(SOURCE, options=[1])  # type: ignore[arg-type]


def test_devices_may_be_torchs() -> None:
    assert adaptzip.compress(SOURCE, budget="25%", device=torch.device("cpu")).to_bytes() == small(SOURCE).to_bytes()


def test_what_progress_raises_stops_the_work(folder: Path, tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    told: list[tuple[str, float, float]] = []

    def stop(phase: str, done: float, total: float) -> None:
        told.append((phase, done, total))
        raise Enough

    for act in (
        lambda: adaptzip.compress(folder, tmp_path / "x.adz", progress=stop),
        lambda: adaptzip.merge(folder, folder.parent / "base-model", tmp_path / "merged", progress=stop),
        lambda: adaptzip.inspect(folder, progress=stop),
        lambda: adaptzip.plan(folder, progress=stop),
        lambda: adaptzip.bench(folder, progress=stop),
        lambda: adaptzip.evaluate(folder.parent / "base-model", folder, {}, ["a b"], progress=stop),
    ):
        with pytest.raises(Enough):
            act()
    assert len(told) == 6
    assert all(0 <= done <= total and total > 0 for _, done, total in told)
    assert list(tmp_path.iterdir()) == []


def test_warnings_have_the_line_of_the_caller(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adaptzip.compress(Adapter(SOURCE.modules, {}, Meta(base_model=str(tmp_path))), budget="25%", device="cpu")
        warn("from here")
    assert {Path(one.filename).name for one in caught} == {Path(__file__).name}
    assert all(issubclass(one.category, AdaptzipWarning) for one in caught)
    assert len(caught) == 2


def test_warnings_are_left_out_in_one_thread_alone() -> None:
    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(1) as pool:
        warnings.simplefilter("always")
        with without_warnings():
            warn("muted")
            pool.submit(warn, "heard").result()
        warn("heard again")
    assert [str(one.message) for one in caught] == ["heard", "heard again"]


def test_nothing_is_logged_without_being_asked_for(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert logging.getLogger("adaptzip").handlers == []
    adaptzip.compress(folder, budget="25%")
    assert capfd.readouterr() == ("", "")


def test_an_adapter_from_memory_is_resolved_when_it_is_written() -> None:
    assert SOURCE.state_dict().keys() == resolved(SOURCE).state_dict().keys()
