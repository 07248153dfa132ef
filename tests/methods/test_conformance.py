"""What every registered method must do; a new method is tested by being there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_adapters import adapter, relative_error, same_bits
from torch import Tensor

import adaptzip
from adaptzip import Adapter, methods
from adaptzip.adapter import LoraFactors
from adaptzip.coding.modules import code_modules, decode_module
from adaptzip.compressed import Site, TensorSpec
from adaptzip.errors import RefusedError, UsageError
from adaptzip.fitting import FittedAdapter, fit_adapter
from adaptzip.verifying import verify

SHAPES = {"a": (40, 24, 6), "b": (24, 40, 4), "c": (33, 33, 1)}
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class ToyProfile:
    """Singular values, falling, and the numbers in a row."""

    singular: np.ndarray
    numbers: int

    @property
    def energy(self) -> float:
        return float(np.square(self.singular).sum())

    @property
    def scores(self) -> list[float]:
        return (np.square(self.singular) / self.numbers).tolist()


class Toy:
    """A method of another package: rows of the whole update, as its singular values order them."""

    name = "toy"
    version = 1
    summary = "one tensor, B times A in one piece"
    paper = "none"
    roles = ("rows",)

    @dataclasses.dataclass(frozen=True)
    class config_type:  # noqa: N801 (the protocol's name)
        """Options."""

        share: float = 1.0

        def __post_init__(self) -> None:
            if not 0 < self.share <= 1:
                raise UsageError(f"share {self.share} is not in (0, 1]")

    def layout(self, site: Site, rank: int) -> tuple[TensorSpec, ...]:
        return (TensorSpec("rows", rank, site.out + site.width),)

    def fit(self, modules: Mapping[str, LoraFactors], config: Any) -> dict[str, Any]:
        return {name: (m.svd(), config.share) for name, m in modules.items()}

    def profile(self, fitted: Any) -> Any:
        (U, S, Vt), _ = fitted
        return ToyProfile(S.double().numpy(), len(U) + Vt.shape[1])

    def rank(self, profile: Any, step: float) -> int:
        return int((profile.singular > step).sum())

    def predict(self, profile: Any, rank: int, step: float) -> tuple[float, float]:
        values, noise = profile.singular, profile.numbers * step**2 / 8
        bits = 0.5 * profile.numbers * np.log2(1 + values[:rank] / noise) + 10
        kept = np.minimum(2 * values[:rank] * noise, np.square(values[:rank]))
        return float(bits.sum()), float(kept.sum() + np.square(values[rank:]).sum())

    def target(self, fitted: Any, role: str, rank: int, done: Mapping[str, Tensor]) -> Tensor:
        (U, S, Vt), _ = fitted
        root = S[:rank, None].sqrt()
        return torch.cat([U.T[:rank] * root, Vt[:rank] * root], 1)

    def squared_error(self, fitted: Any, tensors: Mapping[str, Tensor]) -> float:
        (U, S, Vt), _ = fitted
        A, B = self.reconstruct(tensors, Site(len(U), Vt.shape[1]))
        return float(((U * S) @ Vt - B @ A).double().square().sum())

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site) -> tuple[Tensor, Tensor]:
        rows = tensors["rows"]
        return rows[:, site.out :], rows[:, : site.out].T


TOY = Toy()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """The toy method, installed as another package's entry point."""
    point = EntryPoint("toy", f"{__name__}:TOY", methods.GROUP)
    monkeypatch.setattr(methods, "entry_points", lambda group: [point] if group == methods.GROUP else [])
    return "toy"


@pytest.fixture(params=[*methods.names(), "toy"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("toy") if request.param == "toy" else request.param)


@pytest.fixture(scope="module")
def source() -> Adapter:
    return adapter(SHAPES, seed=4, extras={"head": torch.arange(6.0)})


def fitted(name: str, source: Adapter) -> FittedAdapter:
    method = methods.load(name)
    return fit_adapter(method, method.config_type(), source, CPU)


def tensors_of(name: str, source: Adapter, module: str, step: float) -> tuple[dict[str, Tensor], Site, Any]:
    """A module's tensors after coding at a step, its site and its fit."""
    fit = fitted(name, source)
    rank = fit.ranks(step)[module]
    fits, sites = {module: fit.kept[module]}, fit.sites
    coded = code_modules(fit.method, fits, {module: rank}, sites, fit.max_rank, step)[module]
    site = sites[module]
    tensors = decode_module(fit.method, coded.chunk, site, fit.max_rank, step, module)
    return tensors, site, coded


def test_it_says_what_it_is(name: str) -> None:
    method = methods.load(name)
    assert method.name == name
    assert method.version >= 1
    assert method.summary
    assert "\n" not in method.summary
    assert method.paper
    assert method.roles
    config = method.config_type()
    assert dataclasses.is_dataclass(config)
    assert config.__dataclass_params__.frozen
    assert method.config_type(**dataclasses.asdict(config)) == config


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_its_layout_is_of_its_roles_and_grows_with_the_rank(name: str, rank: int) -> None:
    method = methods.load(name)
    layouts = [method.layout(Site(11, 7), r) for r in (rank, rank + 1)]
    assert all(tuple(spec.role for spec in layout) == method.roles for layout in layouts)
    assert all(spec.rows > 0 and spec.width > 0 for layout in layouts for spec in layout)
    smaller, larger = (sum(spec.numbers for spec in layout) for layout in layouts)
    assert smaller < larger


def test_targets_and_stored_tensors_have_the_layout(name: str, source: Adapter) -> None:
    tensors, site, coded = tensors_of(name, source, "a", 0.02)
    method = methods.load(name)
    specs = method.layout(site, next(iter(tensors.values())).shape[0])
    assert {spec.role: (spec.rows, spec.width) for spec in specs} == {k: tuple(t.shape) for k, t in tensors.items()}
    assert coded.numbers == sum(spec.numbers for spec in specs)
    assert all(t.dtype == torch.float32 for t in tensors.values())


def test_numbers_written_are_those_of_the_layout(name: str, source: Adapter, tmp_path: Path) -> None:
    compressed = adaptzip.compress(source, tmp_path / "x.adz", to=name, max_error=0.2)
    method, total = methods.load(name), 0
    for module, chunk in zip(compressed.modules, compressed.chunks, strict=True):
        site = compressed.sites[module]
        if len(chunk):
            tensors = decode_module(method, chunk, site, compressed.max_rank, compressed.step, module)
            total += sum(tensor.numel() for tensor in tensors.values())
    assert adaptzip.open(tmp_path / "x.adz").provenance.parameters == total


def test_its_own_error_is_the_true_one(name: str, source: Adapter) -> None:
    tensors, site, coded = tensors_of(name, source, "a", 0.02)
    A, B = methods.load(name).reconstruct(tensors, site)
    true = (source.modules["a"].delta().double() - B.double() @ A.double()).square().sum()
    assert coded.squared_error == pytest.approx(float(true), rel=1e-3)


def test_its_prediction_is_of_the_right_size(name: str, source: Adapter) -> None:
    fit = fitted(name, source)
    ranks = fit.ranks(0.02)
    coded = fit.code(0.02, ranks, list(fit.profiles))
    bytes_, error = fit.predict(0.02, ranks)
    assert 0.3 < bytes_ / sum(len(c.chunk) for c in coded.values()) < 3
    assert 0.3 < error / fit.squared_error(coded, list(fit.profiles)) < 3


def test_energies_and_scores_are_those_of_the_update(name: str, source: Adapter) -> None:
    fit = fitted(name, source)
    for module, profile in fit.profiles.items():
        assert profile.energy == pytest.approx(float(source.modules[module].delta().square().sum()), rel=1e-4)
        assert list(profile.scores) == sorted(profile.scores, reverse=True)


def test_equal_input_gives_equal_bytes(name: str, source: Adapter, tmp_path: Path) -> None:
    for path in (tmp_path / "x.adz", tmp_path / "y.adz"):
        adaptzip.compress(source, path, to=name, max_error=0.2)
    assert (tmp_path / "x.adz").read_bytes() == (tmp_path / "y.adz").read_bytes()


def test_writing_changes_nothing(name: str, source: Adapter, tmp_path: Path) -> None:
    compressed = adaptzip.compress(source, tmp_path / "x.adz", to=name, max_error=0.2)
    before, after = adaptzip.reconstruct(compressed), adaptzip.reconstruct(tmp_path / "x.adz")
    for module in source.modules:
        assert same_bits(before.modules[module].A, after.modules[module].A)
        assert same_bits(before.modules[module].B, after.modules[module].B)
        assert before.modules[module].shape == source.modules[module].shape
    assert same_bits(after.extras["head"], source.extras["head"])
    assert relative_error(source, after) == pytest.approx(compressed.provenance.relative_error, rel=1e-3)
    assert compressed.provenance.relative_error <= 0.2


def test_reconstruction_is_differentiable(name: str, source: Adapter) -> None:
    tensors, site, _ = tensors_of(name, source, "b", 0.02)
    method = methods.load(name)
    weight = torch.randn(site.out, site.width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = {role: tensor.double().requires_grad_() for role, tensor in tensors.items()}

    def loss(values: Mapping[str, Tensor]) -> Tensor:
        A, B = method.reconstruct(values, site)
        return ((B @ A) * weight).sum()

    gradients = dict(zip(inputs, torch.autograd.grad(loss(inputs), list(inputs.values())), strict=True))
    for role, tensor in inputs.items():
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        size = 1e-5 * float(tensor.detach().norm() / direction.norm())
        moved = [{**inputs, role: tensor + sign * size * direction} for sign in (1, -1)]
        slope = float((loss(moved[0]) - loss(moved[1])).detach()) / (2 * size)
        assert slope == pytest.approx(float((gradients[role] * direction).sum()), rel=1e-4, abs=1e-9)


def test_a_smaller_step_means_a_smaller_error_and_more_bytes(name: str, source: Adapter) -> None:
    fit = fitted(name, source)
    errors, sizes = [], []
    for step in (0.2, 0.1, 0.05, 0.02, 0.01):
        coded = fit.code(step, fit.ranks(step), list(fit.profiles))
        errors.append(fit.squared_error(coded, list(fit.profiles)))
        sizes.append(sum(len(c.chunk) for c in coded.values()))
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)


def test_unknown_options_are_refused(name: str, source: Adapter) -> None:
    with pytest.raises(UsageError, match=f"{name!r} has no option 'colour'") as caught:
        adaptzip.compress(source, to=name, colour="blue")
    assert caught.value.hint


def test_lossless_files_do_not_depend_on_it(name: str, source: Adapter, tmp_path: Path) -> None:
    adaptzip.compress(source, tmp_path / "x.adz", to=name, lossless=True)
    again = adaptzip.reconstruct(tmp_path / "x.adz")
    assert all(same_bits(again.modules[m].A, source.modules[m].A) for m in source.modules)


def test_a_methods_page_exists() -> None:
    folder = Path(__file__).parents[2] / "formats" / "methods"
    assert {page.stem for page in folder.glob("*.md")} == set(methods.names())


def test_unknown_methods_are_refused_by_name(source: Adapter) -> None:
    with pytest.raises(UsageError, match="'nothing' is unknown") as caught:
        adaptzip.compress(source, to="nothing")
    assert caught.value.hint == f"methods: {', '.join(methods.names())}"


def test_a_plugged_in_method_checks_its_own_options(toy: str, source: Adapter, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="share 3"):
        adaptzip.compress(source, to=toy, share=3.0)
    compressed = adaptzip.compress(source, tmp_path / "x.adz", to=toy, max_error=0.3, share=0.5)
    assert compressed.config == adaptzip.open(tmp_path / "x.adz").config == {"share": 0.5}
    assert toy in methods.names()


def test_a_plugged_in_method_goes_all_the_way(toy: str, source: Adapter, tmp_path: Path) -> None:
    adaptzip.compress(source, tmp_path / "x.adz", to=toy, budget="1400B")
    assert (tmp_path / "x.adz").stat().st_size <= 1400
    plain = Adapter(source.modules, {}, source.meta)
    adaptzip.compress(plain, tmp_path / "y.adz", to=toy, max_error=0.3)
    adaptzip.export(tmp_path / "y.adz", tmp_path / "peft")
    assert relative_error(plain, adaptzip.read(tmp_path / "peft")) == pytest.approx(
        adaptzip.open(tmp_path / "y.adz").provenance.relative_error, rel=1e-3
    )
    assert verify(tmp_path / "y.adz", plain, max_error=0.3).passed


def test_its_files_are_refused_where_it_is_not_installed(source: Adapter, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        point = EntryPoint("toy", f"{__name__}:TOY", methods.GROUP)
        patch.setattr(methods, "entry_points", lambda group: [point])
        adaptzip.compress(source, tmp_path / "x.adz", to="toy", max_error=0.3)
    with pytest.raises(RefusedError, match="x.adz: the file was made by method 'toy', which is not installed"):
        adaptzip.reconstruct(tmp_path / "x.adz")


def test_two_methods_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("svd", "somewhere:METHOD", methods.GROUP)
    monkeypatch.setattr(methods, "entry_points", lambda group: [point])
    with pytest.raises(UsageError, match="defined twice"):
        methods.load("svd")
