"""The method `unilora`: places, the nearest vector, frames, and files that next to nothing is left of."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import adaptzip
from adaptzip.adz.container import writer
from adaptzip.adz.container.reader import open_adz
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.compressed import Compressed, Site
from adaptzip.core.method import FitContext
from adaptzip.errors import CheckFailedError, FormatError, RefusedError, UsageError
from adaptzip.fitting.candidates import candidates, fit_candidate
from adaptzip.methods._shared_vector.config import Config
from adaptzip.methods._shared_vector.drawing import directions, places
from adaptzip.methods.unilora import METHOD
from adaptzip.restoring.decoding import decode
from adaptzip.restoring.reconstruction import coder_of, reconstruct_native
from adaptzip.testing.adapters import adapter, relative_error
from adaptzip.testing.trials import job_of
from tests.cases.tiny_peft import llama, train

SHAPES = {f"l.{i}.q": (48, 32, 4) for i in range(6)} | {"z": (20, 40, 3)}


@pytest.fixture(scope="module")
def source() -> Adapter:
    zero = LoraFactors(torch.ones(2, 32), torch.zeros(48, 2))
    return Adapter({**adapter(SHAPES, seed=4).modules, "l.2.zero": zero})


def of(source: Adapter, **options: Any) -> Compressed:
    return adaptzip.compress(source, to="unilora", device="cpu", **options)


@pytest.mark.parametrize(("field", "value"), [("numbers", 0), ("rank", 0), ("seed", -1), ("scale", 3.0)])
def test_a_value_out_of_range_is_named(field: str, value: float) -> None:
    options: dict[str, Any] = {field: value}
    with pytest.raises(UsageError, match=field):
        Config(**options)


def test_a_file_must_say_how_many_numbers_there_are() -> None:
    with pytest.raises(FormatError, match="lacks numbers"):
        METHOD.shared_layout(Config())


def test_numbers_stand_equally_often_within_a_module_and_over_all() -> None:
    total = torch.zeros(50, dtype=torch.int64)
    for number in range(7):
        index, sign = places(3, number, 192, 50)
        counts = torch.bincount(index, minlength=50)
        assert int(counts.max() - counts.min()) <= 1
        assert set(sign.tolist()) == {-1.0, 1.0}
        total += counts
    assert int(total.max() - total.min()) <= 1
    assert not torch.equal(places(3, 0, 192, 50)[1], places(3, 1, 192, 50)[1])
    assert not torch.equal(places(3, 0, 192, 50)[0], places(4, 0, 192, 50)[0])


def test_rows_of_signs_are_of_unit_length() -> None:
    A = directions(0, 5, 100, 4, 512)
    assert A.shape == (4, 512)
    assert set(A.abs().reshape(-1).tolist()) == {torch.tensor(1 / sqrt(512)).item()}
    off = (A @ A.T) - torch.eye(4)
    assert float(off.abs().max()) < 0.2


def test_the_vector_is_the_nearest(source: Adapter) -> None:
    """Against least squares on the dense updates, in the metric where rows of A are orthonormal."""
    job = job_of("unilora", source, budget="60")
    fitted = fit_candidate(job, candidates(job)[0])
    config = METHOD.config_type(**{**vars(fitted.config)})
    vector = fitted.prepared.vector  # type: ignore[attr-defined]
    rows, wanted = [], []
    for name in fitted.profiles:
        site, module = fitted.sites[name], source.modules[name]
        A = directions(0, site.number, site.out * 4, 4, site.width).double()
        index, sign = places(0, site.number, site.out * 4, 60)
        row = torch.zeros(len(index), 60, dtype=torch.float64)
        row[torch.arange(len(index)), index] = sign.double() * config.scale
        rows.append(row)
        wanted.append((module.delta().double() @ A.T).reshape(-1))
    best = torch.linalg.lstsq(torch.cat(rows), torch.cat(wanted)).solution
    torch.testing.assert_close(vector.reshape(-1).double(), best, atol=1e-6, rtol=1e-5)


def test_modules_of_a_file_are_told_apart_by_their_numbers(source: Adapter, tmp_path: Path) -> None:
    made = of(source, budget="200")
    writer.write(made, tmp_path / "x.adz")
    again = open_adz(tmp_path / "x.adz")
    assert len(made.grouped) <= 8
    assert made.provenance.parameters == 200
    coder = coder_of(again)
    assert [site.number for site in coder.sites.values()] == list(range(len(again.sites)))
    assert all(site.number == 0 for site in again.sites.values())
    every, _ = reconstruct_native(again)
    assert every["l.2.zero"].tensors == {}
    assert every["l.2.zero"].A.shape == (0, 32)
    ((_, alone),) = decode(again, ["l.5.q"], coder_of(again), lambda _, found, __: found)
    assert torch.equal(alone.B, every["l.5.q"].B)
    assert not torch.equal(every["l.0.q"].B, every["l.1.q"].B)


def test_what_has_room_for_every_entry_keeps_all_that_lies_in_its_rows() -> None:
    source = adapter({"m": (24, 6, 2)}, seed=1)
    made = of(source, rank=6)
    A = directions(0, 0, 144, 6, 6).double()
    delta = source.modules["m"].delta().double()
    left = float((delta - delta @ A.T @ A).norm() / delta.norm())
    assert made.config["numbers"] == 144
    assert made.provenance.relative_error == pytest.approx(left, rel=0.05)


def test_more_numbers_than_entries_are_not_stored(source: Adapter) -> None:
    made = of(source, numbers=10**6)
    assert made.config["numbers"] == 4 * (6 * 48 + 20)
    with pytest.raises(CheckFailedError, match="store 90 numbers, more than the 50 allowed"):
        of(source, numbers=90, budget="50")


def test_a_size_that_is_too_small_is_told_what_would_do(source: Adapter, tmp_path: Path) -> None:
    with pytest.raises(CheckFailedError, match="without any module the file takes") as caught:
        of(source, budget="90B")
    assert caught.value.hint is not None
    least = caught.value.hint.removeprefix("allow at least ")
    assert writer.size(of(source, budget=least)) <= int(least.removesuffix("B"))


def test_a_seed_gives_other_places(source: Adapter) -> None:
    one, other = (adaptzip.reconstruct(of(source, budget="100", seed=seed)) for seed in (0, 1))
    assert relative_error(one, other) > 0.5


def test_modules_of_rank_0_are_left_out(source: Adapter) -> None:
    made = of(source, budget="100", ranks={"l.0.q": 3, "l.1.q": 1})
    after = adaptzip.reconstruct(made)
    assert {name for name, module in after.modules.items() if module.delta().any()} == {"l.0.q", "l.1.q"}
    with pytest.raises(CheckFailedError, match="no module keeps a rank"):
        METHOD.prepare(source.modules, Config(numbers=9), FitContext(ranks={}))


def framed(tmp_path: Path) -> Adapter:
    trained = train(llama(), tmp_path / "trained", r=4, target_modules=["q_proj", "v_proj"])
    return adaptzip.read(trained.folder)


def test_a_frame_takes_the_place_of_signs(tmp_path: Path) -> None:
    source = framed(tmp_path)
    for name, module in source.modules.items():
        module.B.copy_(torch.randn(module.B.shape, generator=torch.Generator().manual_seed(len(name))))
    reference = tmp_path / "reference.adz"
    adaptzip.compress(source, reference, max_error=0.05, device="cpu", start="none")
    made = of(source, budget="100", start=reference)
    plain = of(source, budget="100", start="none")
    assert plain.basis is None
    assert made.basis is not None
    assert made.provenance.relative_error < plain.provenance.relative_error
    after = adaptzip.reconstruct(made, basis=reference)
    assert {module.rank for module in after.modules.values()} == {4}
    assert relative_error(source, after) == pytest.approx(made.provenance.relative_error, rel=1e-3)
    for module in after.modules.values():
        torch.testing.assert_close(module.A @ module.A.T, torch.eye(4), atol=1e-5, rtol=1e-5)
    with pytest.raises(RefusedError, match="another adapter"):
        adaptzip.reconstruct(made)


def test_what_dialects_are_told_puts_b_together() -> None:
    site, config = Site(6, 8, number=3), Config(numbers=10, scale=0.25)
    theta: Tensor = torch.randn(1, 10)
    _, B = METHOD.reconstruct({"theta": theta}, site, config)
    told = METHOD.native({"theta": theta}, site, config)
    assert torch.equal(theta.reshape(-1)[told["B.places"]] * told["B.scales"], B)
    assert not torch.equal(METHOD.reconstruct({"theta": theta}, replace(site, number=4), config)[1], B)


def test_no_choice_between_methods_falls_on_it(source: Adapter) -> None:
    report = adaptzip.plan(source, budget="2kB")
    assert {refusal.method for refusal in report.refusals if "distill" in refusal.reason} >= {"unilora"}
    assert adaptzip.plan(source, budget="2kB", methods=["unilora"]).best.method == "unilora"
