"""Starts at odds with what stands beside them: notes, bases and references that do not fit, A that make no frame."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptzip
from adaptzip import Adapter, LoraFactors
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.resolve import frames_for_reconstruct
from adaptzip.bases.starts.generators import Place, whole_numbers
from adaptzip.bases.updates import build_basis
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.errors import AdaptzipWarning, FormatError, RefusedError, UsageError
from adaptzip.fitting import loading
from adaptzip.fitting.calibration import Calibration
from adaptzip.fitting.compression import make_from
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.measuring import calibrated_error
from adaptzip.fitting.requests import Request
from adaptzip.restoring.reconstruction import frames_at
from tests.cases.started import folder

pytestmark = pytest.mark.starts


@pytest.fixture(scope="module")
def kin(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters that began alike, with numbers that no popular seed gives."""
    path = tmp_path_factory.mktemp("kin")
    return folder(path / "one", 987654321), folder(path / "two", 987654321, by=0.2)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("found") / "adapter", 42)


def test_a_zero_update_needs_no_frame(kin: tuple[Path, Path]) -> None:
    adapter = adaptzip.read(kin[0])
    zero = replace(adapter, modules={n: replace(m, B=torch.zeros_like(m.B)) for n, m in adapter.modules.items()})
    assert adaptzip.compress(zero, max_error=0.1, start=kin[1]).basis is None


def test_an_offset_that_no_reader_goes_to_is_refused_before_any_number_is_drawn(found: Path) -> None:
    with pytest.raises(RefusedError, match="no module of the adapter can have begun"):
        adaptzip.compress(found, max_error=0.1, start="42:999999999999999")


def test_a_seed_is_given_in_digits(found: Path) -> None:
    with pytest.raises(UsageError, match="start is 42, expected text"):
        adaptzip.compress(found, max_error=0.1, start=42)  # type: ignore[arg-type]


def test_an_a_whose_rows_depend_on_each_other_has_no_frame() -> None:
    numbers = whole_numbers("uniform", 42, Place(15232, 16, 16))  # Square, and by chance all but singular.
    after = whole_numbers("uniform", 42, Place(16000, 16, 16))
    generator = torch.Generator().manual_seed(0)

    def near(first: Any) -> LoraFactors:
        A = torch.from_numpy(first / 2.0**25).float() + 0.01 * torch.randn(16, 16, generator=generator)
        return LoraFactors(A, torch.randn(32, 16, generator=generator))

    adapter = Adapter({"dependent": near(numbers), "fine": near(after)})
    frames = load_source(adapter, Request(start="42")).frames
    assert frames is not None
    assert list(frames.modules) == ["fine"]
    assert frames.reference.start is not None
    assert frames.reference.start.offsets == (16000,)
    adaptzip.compress(adapter, max_error=0.1)


def test_a_note_that_can_not_be_read_is_left_alone(found: Path, tmp_path: Path) -> None:
    for file in found.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "adapter_start.json").write_text('{"format": 2}')
    with pytest.warns(AdaptzipWarning, match="the note of a start is left alone: .*format 2 is not 1"):
        small = adaptzip.compress(tmp_path, max_error=0.1)
    assert small.basis == adaptzip.compress(found, max_error=0.1).basis
    with pytest.raises(RefusedError, match="format 2"):
        adaptzip.compress(found, max_error=0.1, start=tmp_path)


def test_a_file_that_stands_on_another_adapter_is_read_and_coded_with_it(
    kin: tuple[Path, Path], tmp_path: Path
) -> None:
    first = adaptzip.compress(kin[0], tmp_path / "a.adz", max_error=0.05, start=kin[1])
    again = adaptzip.compress(tmp_path / "a.adz", max_error=0.1, basis=kin[1])
    assert again.basis == first.basis
    with pytest.raises(RefusedError, match="is a folder, expected a basis"):
        adaptzip.compress(tmp_path / "a.adz", to="lora-sb", basis=kin[1])


def test_a_basis_is_known_by_what_it_holds(kin: tuple[Path, Path], tmp_path: Path) -> None:
    write_basis(build_basis([adaptzip.read(kin[1])]), tmp_path / "shared.safetensors")
    small = adaptzip.compress(kin[0], max_error=0.1, start=tmp_path / "shared.safetensors")
    assert small.basis is not None
    assert small.basis.source == "file"


def test_a_reference_does_not_say_where_its_base_lies(kin: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("/home/me/base", "org/base"):
        adapter = adaptzip.read(kin[1])
        meta = replace(adapter.meta, config={**adapter.meta.config, "base_model_name_or_path": name}, base_model=name)
        adaptzip.compress(replace(adapter, meta=meta), tmp_path / "reference.adz", max_error=0.05, force=True)
        small = adaptzip.compress(kin[0], max_error=0.1, start=tmp_path / "reference.adz")
        assert small.basis is not None
        assert small.basis.description == ("" if name.startswith("/") else name)


@pytest.mark.parametrize("both", [False, True])
def test_calibration_to_a_budget_makes_again_what_frames_need(
    both: bool, kin: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = kin
    copies: list[Adapter] = []

    def calibrate(base: Path, adapter: Adapter, texts: Path, *, compressed: Any, **_: Any) -> Calibration:
        weights = {name: Sensitivity(1.0, torch.eye(m.shape[1])) for name, m in adapter.modules.items()}
        copies.append(compressed(weights))
        return Calibration(weights, {}, {}, 1, 1, "none", {})

    monkeypatch.setattr(loading, "calibrate", calibrate)
    basis = tmp_path / "shared.basis"
    write_basis(build_basis([adaptzip.read(source)]), basis)
    budget, beside = adaptzip.Budget.of("3kB"), basis if both else None
    request = Request(budget=budget, base=tmp_path, calibration=tmp_path, start=other, basis=beside)
    loaded = load_source(source, request)
    made = make_from(loaded, request)
    assert copies[0].modules.keys() == loaded.adapter.modules.keys()
    assert made.compressed.basis is not None
    assert made.compressed.basis.source == "reference"
    assert calibrated_error(loaded, made.compressed, request) == pytest.approx(made.error, rel=1e-3)


def test_frames_of_other_widths_are_refused(kin: tuple[Path, Path], tmp_path: Path) -> None:
    small = adaptzip.compress(kin[0], max_error=0.1, start=kin[1])
    assert small.basis is not None
    name = next(iter(small.sites))
    sites = {**small.sites, name: replace(small.sites[name], width=63)}
    with pytest.raises(FormatError, match=f"module {name} has 63 inputs, but its frame is for 64"):
        frames_for_reconstruct(small.basis, sites, small.basis_sizes, 5000, basis=frames_at(kin[1]))


def test_factors_that_have_gradients_are_compressed() -> None:
    A, B = (torch.nn.Parameter(torch.randn(*shape)) for shape in ((4, 400), (30, 4)))
    assert adaptzip.compress(Adapter({"m": LoraFactors(A, B)}), max_error=0.2).provenance.relative_error <= 0.2
