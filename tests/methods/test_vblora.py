"""The method `vblora`: options, searches, and what comes out of files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.compressed import Site
from adaptzip.core.method import FitContext
from adaptzip.core.progress import Progress
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.core.survey import Allowance
from adaptzip.errors import CheckFailedError, FormatError, UsageError
from adaptzip.fitting import running
from adaptzip.fitting.fits import FittedAdapter
from adaptzip.fitting.requests import Job
from adaptzip.methods._banks.codes import piece_count
from adaptzip.methods._banks.ranks import survey
from adaptzip.methods._vblora_config import Config, choices_of
from adaptzip.methods.vblora import METHOD
from adaptzip.testing.adapters import adapter, relative_error

SHAPES = [(40, 24, 4), (24, 40, 3), (33, 17, 1)]
SMALL: dict[str, Any] = {"rank": 2, "length": 4, "vectors": 12, "top_k": 1}


@pytest.fixture(scope="module")
def source() -> Adapter:
    return adapter(SHAPES, seed=4)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rank", 0), ("length", 0), ("vectors", 2**21), ("top_k", 9), ("levels", 48), ("memory", 0.0), ("floor", 1.5),
     ("scale", 3.0)],
)  # fmt: skip
def test_a_value_out_of_range_is_named(field: str, value: float) -> None:
    options: dict[str, Any] = {field: value}
    with pytest.raises(UsageError, match=field):
        Config(**options)


def test_a_mixture_of_more_vectors_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match="top_k is 4, more than the bank's 3"):
        Config(vectors=3, top_k=4)


def test_a_file_must_say_how_its_bank_looks() -> None:
    with pytest.raises(FormatError, match="lacks rank"):
        METHOD.layout(Site(8, 8), 1, Config(rank=1))


@pytest.mark.parametrize("options", [SMALL, SMALL | {"length": 7, "top_k": 2}, SMALL | {"rank": 4, "length": 64}])
def test_a_file_gives_back_the_error_it_states(source: Adapter, options: dict[str, Any]) -> None:
    made = adaptzip.compress(source, to="vblora", device="cpu", **options)
    assert relative_error(source, adaptzip.reconstruct(made)) == pytest.approx(made.provenance.relative_error, rel=1e-3)
    k, length = options["top_k"], options["length"]
    pieces = sum(options["rank"] * (piece_count(out, length) + piece_count(width, length)) for out, width, _ in SHAPES)
    assert made.provenance.parameters == pieces * (2 * k - 1) + options["vectors"] * length


@pytest.mark.parametrize("uniform", [True, False])
def test_a_parameter_budget_is_kept_and_used(source: Adapter, uniform: bool) -> None:
    wanted = Config(uniform=uniform)
    found = METHOD.candidates(survey(source.modules, torch.device("cpu")), wanted, Allowance(parameters=400))
    assert all(candidate.parameters is not None and 300 < candidate.parameters <= 400 for candidate in found[:3])
    errors = [candidate.error for candidate in found]
    assert errors == sorted(errors, key=lambda error: error or 0.0)
    made = adaptzip.compress(source, to="vblora", device="cpu", budget="400", uniform=uniform)
    assert made.provenance.parameters <= 400


def test_ranks_of_modules_may_differ_where_peft_is_not_asked_for(source: Adapter) -> None:
    config = Config(rank=4, length=4, vectors=12, top_k=1, uniform=False, floor=1e-3)
    _, prepared = METHOD.prepare(source.modules, config, FitContext())
    ranks = {name: len(coded.A.indices) for name, coded in prepared.coded.items()}
    assert len(set(ranks.values())) > 1
    assert max(ranks.values()) <= 4


def test_an_allocation_is_honoured(source: Adapter) -> None:
    config = Config(**SMALL)
    _, prepared = METHOD.prepare(source.modules, config, FitContext(ranks={"m.0": 1, "m.1": 5}))
    assert {name: len(coded.A.indices) for name, coded in prepared.coded.items()} == {"m.0": 1, "m.1": 2}


def test_of_a_number_of_parameters_only_the_best_fit_is_coded(source: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    coded: list[object] = []
    code = running._coded

    def counted(job: Job, fitted: FittedAdapter, progress: Progress | None) -> running.Made:
        coded.append(fitted)
        return code(job, fitted, progress)

    monkeypatch.setattr(running, "_coded", counted)
    one = adaptzip.compress(source, to="vblora", device="cpu", budget="400")
    assert len(coded) == 1
    monkeypatch.setattr(running, "_foretold", lambda job: False)
    each = adaptzip.compress(source, to="vblora", device="cpu", budget="400")
    assert len(coded) > 2
    assert one.provenance.relative_error <= 1.01 * each.provenance.relative_error


def test_too_few_parameters_are_refused_with_the_smallest_number(source: Adapter) -> None:
    with pytest.raises(CheckFailedError, match="5 parameters leave no room for a bank"):
        adaptzip.compress(source, to="vblora", device="cpu", budget="5")


def test_the_memory_that_peft_needs_is_a_limit(source: Adapter) -> None:
    outline = survey(source.modules, torch.device("cpu"))
    tight = Config(memory=2000 / 2**30)
    for candidate in METHOD.candidates(outline, tight, Allowance(parameters=400)):
        c = choices_of(candidate.config)
        pieces = sum(c.rank * (piece_count(o, c.length) + piece_count(w, c.length)) for o, w, _ in SHAPES)
        assert 4 * pieces * c.vectors <= 2000
    with pytest.raises(CheckFailedError, match="PEFT would need .* GiB for the dense logits") as caught:
        METHOD.candidates(outline, Config(**SMALL, memory=1e-9), Allowance())
    assert "'memory'" in (caught.value.hint or "")


def test_lengths_divide_all_widths_where_they_can() -> None:
    outline = survey(adapter([(48, 96, 2), (144, 48, 2)]).modules, torch.device("cpu"))
    found = METHOD.candidates(outline, Config(), Allowance(parameters=400))
    assert found
    assert all(48 % choices_of(candidate.config).length == 0 for candidate in found)


def test_bank_numbers_are_in_units_of_the_update(source: Adapter) -> None:
    config, prepared = METHOD.prepare(source.modules, Config(**SMALL), FitContext())
    mean = sum(prepared.exposures.values()) / prepared.bank.numel()
    assert 0.5 <= mean <= 2
    scaled = {n: LoraFactors(m.A, m.B, 16.0) for n, m in source.modules.items()}
    again, other = METHOD.prepare(scaled, Config(**SMALL), FitContext())
    assert torch.allclose(other.bank, 16 * prepared.bank, rtol=1e-2, atol=1e-3)
    assert again.scale == 4 * config.scale


def test_weights_of_modules_count(source: Adapter) -> None:
    context = FitContext(sensitivities={"m.2": Sensitivity(weight=9.0)})
    config, prepared = METHOD.prepare(source.modules, Config(**SMALL), context)
    fits = METHOD.fit(source.modules, config, prepared, context)
    plain = METHOD.fit(source.modules, config, prepared, FitContext())
    heavy, light = METHOD.profile(fits["m.2"]), METHOD.profile(plain["m.2"])
    assert heavy.energy == pytest.approx(9 * light.energy)
    assert heavy.error(2) == pytest.approx(9 * light.error(2), rel=1e-4)
    assert METHOD.profile(fits["m.0"]).error(2) == pytest.approx(METHOD.profile(plain["m.0"]).error(2), rel=1e-6)


def test_the_gradient_of_the_factors_reaches_the_bank_and_the_weights() -> None:
    site, config = Site(7, 9), Config(rank=2, length=4, vectors=5, top_k=3, scale=0.5)
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {"bank": torch.randn(5, 4, generator=generator)}
    for spec in METHOD.layout(site, 2, config):
        if spec.kind == "index":
            tensors[spec.role] = torch.rand(spec.rows, 5, generator=generator).argsort(1)[:, :3]
        else:
            tensors[spec.role] = torch.full((spec.rows, 2), 16 / 64)
    goal = torch.randn(7, 9, generator=generator)

    def loss(bank: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        A, B = METHOD.reconstruct({**tensors, "bank": bank, "A.weights": weights}, site, config)
        return (B @ A - goal).square().sum()

    inputs = [tensors[role].clone().requires_grad_() for role in ("bank", "A.weights")]
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    for i, gradient in enumerate(gradients):
        nudge = torch.randn(inputs[i].shape, generator=generator)
        moved = [
            [t.detach() + (sign * 1e-2 * nudge if j == i else 0.0) for j, t in enumerate(inputs)] for sign in (1, -1)
        ]
        slope = float(loss(*moved[0]) - loss(*moved[1])) / 2e-2
        assert slope == pytest.approx(float((gradient * nudge).sum()), rel=2e-2, abs=0.05)


def test_one_module_and_a_zero_module() -> None:
    one = adapter([(24, 16, 2)])
    zero = LoraFactors(torch.zeros(2, 16), torch.zeros(24, 2))
    both = Adapter({**one.modules, "z": zero})
    made = adaptzip.compress(both, to="vblora", device="cpu", **SMALL)
    back = adaptzip.reconstruct(made)
    assert not bool(back.modules["z"].delta().any())
    assert relative_error(one, Adapter({"m.0": back.modules["m.0"]})) < 0.9


def test_a_seed_gives_the_same_file(source: Adapter, tmp_path: Path) -> None:
    for name in "ab":
        adaptzip.compress(source, tmp_path / f"{name}.adz", to="vblora", device="cpu", seed=3, **SMALL)
    assert (tmp_path / "a.adz").read_bytes() == (tmp_path / "b.adz").read_bytes()


def test_a_bank_beats_k_means_of_the_same_size(material: Path) -> None:
    from sklearn.cluster import KMeans

    from adaptzip.methods._banks.factors import groups, squared_errors, start
    from adaptzip.methods._banks.fit import Shape, fit_bank

    modules = adaptzip.read(material / "adapters" / "minilm-trec-r8").modules
    found = list(groups(modules, dict.fromkeys(modules, 1), {}, torch.device("cpu")))
    fit = fit_bank(found, Shape(128, 8, 1, 64), 0)
    starts = [start(group) for group in found]
    pieces = torch.cat([rows.reshape(-1, 8) for pair in starts for rows in pair])
    labels = KMeans(128, n_init=2, random_state=0).fit(pieces.numpy())
    centres = torch.from_numpy(labels.cluster_centers_[labels.labels_])
    nearest = iter(torch.split(centres, [r.numel() // 8 for p in starts for r in p]))
    theirs = sum(float(squared_errors(g, *_like(pair, nearest)).sum()) for g, pair in zip(found, starts, strict=True))
    assert sum(float(error.sum()) for error in fit.errors) < 0.97 * theirs


def _like(pair: tuple[torch.Tensor, torch.Tensor], rows: Iterator[torch.Tensor]) -> list[torch.Tensor]:
    return [next(rows).reshape(like.shape).float() for like in pair]
