"""What every registered method must do; a new method is tested by being there."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import adaptzip
from adaptzip import Adapter, methods
from adaptzip.adz.container import writer
from adaptzip.core.budget import Budget
from adaptzip.core.compressed import Compressed, Site
from adaptzip.errors import AdaptzipWarning, CheckFailedError, UsageError
from adaptzip.fitting.assembly import fixed_size
from adaptzip.fitting.choosing import forecast
from adaptzip.fitting.fits import FittedAdapter
from adaptzip.fitting.requests import Request
from adaptzip.reports.verifying import AGREEMENT, verify
from adaptzip.restoring.reconstruction import decode
from tests.cases.any_method import (
    EVERY,
    OUTSIDE,
    OneModule,
    code_one,
    compress,
    dense,
    fit,
    needs_file,
    same_factors,
    stored_numbers,
)
from tests.cases.plugging import installed
from tests.cases.small_adapters import adapter, factors, relative_error, same_bits
from tests.cases.tiny_peft import Trained, gpt2, llama, merged_by_peft, train

SOURCE = adapter({"a": (40, 24, 6), "b": (24, 40, 4), "c": (33, 33, 1)}, seed=4, extras={"head": torch.arange(6.0)})
LARGE = adapter({f"l.{i}": (56, 40, 12) for i in range(4)}, seed=5)
"""Large enough that a budget can be filled to 1 %."""
STEP = 0.02
FACTOR = 2.5
"""How far a method's prediction may be from what comes, either way, for a module of a thousand numbers."""


@pytest.fixture(autouse=True, scope="module")
def _outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("toys")):
        yield


@pytest.fixture(params=EVERY)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@cache
def fitted(name: str) -> FittedAdapter:
    return fit(name, SOURCE)


@cache
def one(name: str, module: str = "a") -> OneModule:
    return code_one(fitted(name), module, STEP)


@cache
def made(name: str) -> Compressed:
    return compress(name, SOURCE, max_error=0.2)


def test_it_says_what_it_is(name: str) -> None:
    method = methods.load(name)
    assert method.name == name
    assert method.version >= 1
    assert method.summary
    assert "\n" not in method.summary
    assert method.paper
    assert method.roles
    assert len({*method.roles, *method.shared_roles}) == len(method.roles) + len(method.shared_roles)
    assert method.needs_basis == bool(method.default_basis)
    config = method.config_type()
    assert config.__dataclass_params__.frozen
    assert method.config_type(**dataclasses.asdict(config)) == config
    assert hash(config) == hash(method.config_type())


def base_role(role: str) -> str:
    """A role without its number: a tensor of which a module has several is called "core.0", "core.1" and so on."""
    stem, _, number = role.rpartition(".")
    return stem if number.isdigit() else role


def test_its_layout_is_of_its_roles_and_grows_with_the_rank(name: str) -> None:
    fit_, method = fitted(name), methods.load(name)
    for site in fit_.sites.values():
        most = method.max_rank(site, fit_.config)
        before = 0
        for rank in range(1, min(most, 12) + 1):
            specs = method.layout(site, rank, fit_.config)
            roles = tuple(dict.fromkeys(base_role(spec.role) for spec in specs))
            # A tensor that is empty at a small rank is left out.
            assert roles == tuple(role for role in method.roles if role in roles)
            assert roles
            assert len({spec.role for spec in specs}) == len(specs)
            numbers = sum(spec.numbers for spec in specs)
            assert numbers >= before  # a chain of tensors may be as large as its shape allows before the others are
            before = numbers
        assert before > 0


def test_what_its_layouts_say_is_possible(name: str) -> None:
    fit_, method = fitted(name), methods.load(name)
    shared = method.shared_layout(fit_.config)
    assert tuple(spec.role for spec in shared) == method.shared_roles
    own = [spec for site in fit_.sites.values() for spec in method.layout(site, 1, fit_.config)]
    for spec in [*shared, *own]:
        assert spec.rows > 0
        assert spec.width > 0 or (spec.width == 0 and spec.kind == "simplex")  # a mixture of one stores no weight
        assert spec.kind == "real" or not spec.directions
        assert (spec.bound == 0) if spec.kind == "real" else (1 <= spec.bound <= 2**20)


def test_stored_tensors_have_the_layout(name: str) -> None:
    module, method = one(name), methods.load(name)
    specs = method.layout(module.site, module.rank, module.coder.config)
    assert {spec.role: (spec.rows, spec.width) for spec in specs} == {k: tuple(t.shape) for k, t in module.own.items()}
    assert module.coded.numbers == sum(spec.numbers for spec in specs)
    for spec in specs:
        tensor = module.own[spec.role]
        assert tensor.dtype == (torch.int64 if spec.kind == "index" else torch.float32)
        if spec.kind == "index":
            assert bool((tensor < spec.bound).all())
        if spec.kind == "simplex" and spec.width:
            last = 1 - tensor.sum(1)
            assert bool((last >= tensor.amax(1)).all())


def test_shared_tensors_are_decoded_as_the_modules_were_fitted_to_them(name: str) -> None:
    module = one(name)
    for spec in methods.load(name).shared_layout(module.coder.config):
        found = module.tensors[spec.role]
        assert tuple(found.shape) == (spec.rows, spec.width)
        if not spec.directions:
            assert same_bits(found, module.shared.tensors[spec.role])


def test_numbers_written_are_those_of_the_layout(name: str, tmp_path: Path) -> None:
    writer.write(made(name), tmp_path / "x.adz")
    compressed = adaptzip.open(tmp_path / "x.adz")
    method = methods.load(name)
    decoded = dict(decode(compressed, compressed.modules))
    config = method.config_type(**compressed.config)
    shared = {spec.role: spec.numbers for spec in method.shared_layout(config)}
    total = sum(shared.values())
    for module in decoded.values():
        own = {role for role in module.tensors if base_role(role) in method.roles}
        total += sum(module.tensors[role].numel() for role in own)
    if method.needs_basis:
        sizes = zip(compressed.basis_sizes, compressed.sites.values(), strict=True)
        total += sum(size * (site.out + site.width) for size, site in sizes)
    assert compressed.provenance.parameters == total


@pytest.mark.parametrize("module", ["a", "b"])
@pytest.mark.parametrize("step", [0.1, 0.02, 0.004])
def test_its_own_error_is_the_true_one(name: str, module: str, step: float) -> None:
    fit_ = fitted(name)
    if module not in fit_.ranks(step):
        pytest.skip("the module is not kept at this step")
    found = code_one(fit_, module, step)
    full = dense(SOURCE, module)
    true = float((full - found.delta()).square().sum())
    assert found.coded.squared_error == pytest.approx(true, rel=1e-3, abs=1e-10 * float(full.square().sum()))


def test_its_own_error_is_the_true_one_at_every_rank(name: str) -> None:
    fit_ = fitted(name)
    full = dense(SOURCE, "a")
    for rank in range(1, len(fit_.profiles["a"].scores) + 1):
        found = code_one(fit_, "a", STEP, rank)
        assert found.coded.squared_error == pytest.approx(float((full - found.delta()).square().sum()), rel=1e-3)


@pytest.mark.parametrize("step", [0.05, 0.02, 0.005])
def test_its_prediction_is_of_the_right_size(name: str, step: float) -> None:
    fit_ = fitted(name)
    ranks, every = fit_.ranks(step), list(fit_.profiles)
    coded = fit_.code(step, ranks, every)
    bytes_, error = fit_.predict(step, ranks)
    assert 1 / FACTOR < bytes_ / coded.bytes < FACTOR
    assert 1 / FACTOR < error / fit_.squared_error(coded, every) < FACTOR


def test_energies_and_scores_are_those_of_the_update(name: str) -> None:
    for module, profile in fitted(name).profiles.items():
        # A basis that is stored in half precision is orthonormal to three digits and a half.
        assert profile.energy == pytest.approx(float(dense(SOURCE, module).square().sum()), rel=AGREEMENT)
        scores = list(profile.scores)
        assert scores
        assert scores == sorted(scores, reverse=True)
        assert scores[-1] >= 0


def test_equal_input_gives_equal_bytes(name: str, tmp_path: Path) -> None:
    writer.write(made(name), tmp_path / "x.adz")
    compress(name, SOURCE, tmp_path / "again.adz", max_error=0.2)
    assert (tmp_path / "x.adz").read_bytes() == (tmp_path / "again.adz").read_bytes()


def test_the_number_of_threads_changes_no_byte(name: str, tmp_path: Path) -> None:
    """Nor is it another one afterwards. `test_threads.py` has sizes at which torch itself shares out work."""
    before = torch.get_num_threads()
    files = [tmp_path / "1.adz", tmp_path / "2.adz"]
    try:
        for threads, path in zip((1, 2), files, strict=True):
            torch.set_num_threads(threads)
            compress(name, SOURCE, path, max_error=0.2)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_writing_changes_nothing(name: str, tmp_path: Path) -> None:
    writer.write(made(name), tmp_path / "x.adz")
    before, after = adaptzip.reconstruct(made(name)), adaptzip.reconstruct(tmp_path / "x.adz")
    assert same_factors(before, after)
    for module, source in SOURCE.modules.items():
        assert after.modules[module].shape == source.shape
        assert after.modules[module].A.dtype == after.modules[module].B.dtype == torch.float32
    error = made(name).provenance.relative_error
    assert relative_error(SOURCE, after) == pytest.approx(error, rel=1e-3)
    assert error <= 0.2
    assert verify(tmp_path / "x.adz", SOURCE, max_error=0.2).passed


def test_reconstruction_does_not_depend_on_threads(name: str) -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(adaptzip.reconstruct(made(name)))
    finally:
        torch.set_num_threads(before)
    assert same_factors(*results)


def test_the_basis_may_be_a_file_of_its_own(name: str, tmp_path: Path) -> None:
    if not methods.load(name).needs_basis:
        assert made(name).basis is None
        return
    file = tmp_path / "x.basis"
    options = needs_file(name, SOURCE, file)
    compressed = compress(name, SOURCE, tmp_path / "x.adz", max_error=0.2, **options)
    assert compressed.provenance.parameters < made(name).provenance.parameters
    assert (tmp_path / "x.adz").stat().st_size < writer.size(made(name))
    after = adaptzip.reconstruct(tmp_path / "x.adz", basis=file)
    assert relative_error(SOURCE, after) == pytest.approx(compressed.provenance.relative_error, rel=1e-3)
    with pytest.raises(adaptzip.AdaptzipError, match="basis"):
        adaptzip.reconstruct(tmp_path / "x.adz")


@pytest.mark.parametrize("module", ["a", "b"])
def test_reconstruction_is_differentiable(name: str, module: str) -> None:
    """Checked against finite differences; factors may be rounded to float32, so differences are not tiny."""
    found = one(name, module)
    weight = torch.randn(found.site.out, found.site.width, generator=torch.Generator().manual_seed(0)).double()
    fixed = {role: tensor.double() if tensor.is_floating_point() else tensor for role, tensor in found.tensors.items()}
    real = {spec.role for spec in _real_specs(name, found)}
    inputs = {role: fixed[role].requires_grad_() for role in real}

    def loss(values: Mapping[str, Tensor]) -> Tensor:
        A, B = found.factors({**fixed, **values})
        return ((B.double() @ A.double()) * weight).sum()

    gradients = dict(zip(inputs, torch.autograd.grad(loss(inputs), list(inputs.values())), strict=True))
    for role, tensor in inputs.items():
        # Along the gradient the slope is large, so that rounding matters little.
        direction = gradients[role] / gradients[role].norm().clamp(min=1e-30)
        # A tensor whose numbers were all quantised to zero has no size of its own.
        size = 1e-3 * (float(tensor.detach().norm()) or 1.0)
        moved = [{**inputs, role: tensor + sign * size * direction} for sign in (1, -1)]
        slope = float((loss(moved[0]) - loss(moved[1])).detach()) / (2 * size)
        assert slope == pytest.approx(float(gradients[role].norm()), rel=2e-3)
        assert slope > 0


def _real_specs(name: str, found: OneModule) -> list[Any]:
    method, config = methods.load(name), found.coder.config
    specs = [*method.shared_layout(config), *method.layout(found.site, found.rank, config)]
    return [spec for spec in specs if spec.kind == "real"]


def test_a_smaller_step_means_a_smaller_error_and_more_bytes(name: str) -> None:
    fit_ = fitted(name)
    errors, sizes = [], []
    for step in (0.2, 0.1, 0.05, 0.02, 0.01):
        coded = fit_.code(step, fit_.ranks(step), list(fit_.profiles))
        errors.append(fit_.squared_error(coded, list(fit_.profiles)))
        sizes.append(coded.bytes)
    # Where whole numbers carry most of a method's error, a step moves what is left by chance as well: one part in 100.
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert fine <= 1.01 * coarse
    assert errors[-1] < errors[0]
    assert sizes == sorted(sizes)


@pytest.fixture(scope="module")
def basis_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a basis of LARGE lies, once a method needs it; beside it, a file's size is that of its modules."""
    return tmp_path_factory.mktemp("basis") / "large.basis"


@cache
def large(name: str, basis_file: Path, **limits: Any) -> tuple[Compressed, list[str]]:
    """LARGE within limits, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AdaptzipWarning)
        compressed = compress(name, LARGE, **needs_file(name, LARGE, basis_file), **limits)
    return compressed, [str(warning.message) for warning in caught]


def restored_from(name: str, compressed: Compressed, basis_file: Path) -> Adapter:
    return adaptzip.reconstruct(compressed, basis=basis_file if methods.load(name).needs_basis else None)


def sizes(name: str, basis_file: Path) -> list[int]:
    """Sizes from that of a poor file, relative error 0.6, to one with five more bits for each number of the update."""
    poor, _ = large(name, basis_file, max_error=0.6)
    return [writer.size(poor) + ceil(stored_numbers(name, LARGE) * bits / 8) for bits in (1, 2.5, 5)]


def test_a_size_is_met_within_a_hundredth_or_it_is_said_why(name: str, basis_file: Path) -> None:
    for size in sizes(name, basis_file):
        compressed, messages = large(name, basis_file, budget=f"{size}B")
        found = writer.size(compressed)
        assert found <= size
        if size - found > max(0.01 * (size - fixed_size(compressed)), 8):
            assert [f"the file takes {found} bytes, " in message for message in messages] == [True]
        else:
            assert not messages


def test_more_bytes_never_mean_a_larger_error(name: str, basis_file: Path) -> None:
    made = [large(name, basis_file, budget=f"{size}B")[0] for size in sizes(name, basis_file)]
    errors = [compressed.provenance.relative_error for compressed in made]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 2


@pytest.mark.parametrize("share", [0.25, 0.7])
def test_a_number_of_parameters_is_never_exceeded(name: str, share: float, basis_file: Path) -> None:
    limit = ceil(share * stored_numbers(name, LARGE))
    compressed, _ = large(name, basis_file, budget=str(limit))
    assert 0 < compressed.provenance.parameters <= limit
    found = relative_error(LARGE, restored_from(name, compressed, basis_file))
    assert found == pytest.approx(compressed.provenance.relative_error, rel=1e-3)
    assert found < 1


def test_more_parameters_never_mean_a_larger_error(name: str, basis_file: Path) -> None:
    limits = [ceil(share * stored_numbers(name, LARGE)) for share in (0.25, 0.7)]
    made = [large(name, basis_file, budget=str(limit))[0] for limit in limits]
    errors = [compressed.provenance.relative_error for compressed in made]
    # What is kept is coded at the default error, which is met to one part in a hundred.
    assert all(fine <= 1.01 * coarse for coarse, fine in zip(errors, errors[1:], strict=False))


@pytest.mark.parametrize("error", [0.5, 0.2, 0.05])
def test_an_error_is_never_exceeded(name: str, error: float, basis_file: Path) -> None:
    try:
        compressed, _ = large(name, basis_file, max_error=error)
    except CheckFailedError as failure:
        # A method whose codes are whole numbers has a floor; it must say so, and reach a larger error.
        assert error < 0.2  # noqa: PT017
        assert "cannot be reached" in str(failure)  # noqa: PT017
        assert failure.hint  # noqa: PT017
        return
    assert compressed.provenance.relative_error <= error
    assert relative_error(LARGE, restored_from(name, compressed, basis_file)) <= error * (1 + 1e-5)


def test_a_larger_error_never_means_a_larger_file(name: str, basis_file: Path) -> None:
    made = [large(name, basis_file, max_error=error)[0] for error in (0.5, 0.2)]
    coarse, fine = (writer.size(compressed) for compressed in made)
    assert coarse < fine


def test_what_cannot_be_met_is_refused(name: str) -> None:
    limits: list[dict[str, Any]] = [{"budget": "60B"}, {"budget": "1"}, {"budget": "600B", "max_error": 0.001}]
    for each in limits:
        with pytest.raises(CheckFailedError) as caught:
            compress(name, SOURCE, **each)
        assert caught.value.hint


@pytest.mark.parametrize("kind", ["error", "size"])
def test_a_plan_is_near_what_comes(name: str, kind: str, basis_file: Path) -> None:
    limits: dict[str, Any] = {"max_error": 0.2} if kind == "error" else {"budget": f"{sizes(name, basis_file)[1]}B"}
    asked = {**limits, "budget": Budget.of(limits.get("budget"))}
    planned = forecast(LARGE, Request(to=name, device="cpu", **needs_file(name, LARGE, basis_file), **asked))
    compressed, _ = large(name, basis_file, **limits)
    assert planned.method == name
    assert planned.bytes == pytest.approx(writer.size(compressed), rel=0.3)
    assert 1 / FACTOR < planned.relative_error / compressed.provenance.relative_error < FACTOR


def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name!r} has no option 'colour'") as caught:
        compress(name, SOURCE, colour="blue")
    assert caught.value.hint


def test_options_of_unknown_files_are_refused(name: str) -> None:
    odd = dataclasses.replace(made(name), config={**made(name).config, "colour": 1})
    with pytest.raises(adaptzip.errors.RefusedError, match="'colour'"):
        adaptzip.reconstruct(odd)


def test_lossless_files_do_not_depend_on_it(name: str, tmp_path: Path) -> None:
    adaptzip.compress(SOURCE, tmp_path / "x.adz", to=name, lossless=True)
    again = adaptzip.reconstruct(tmp_path / "x.adz")
    assert all(same_bits(again.modules[m].A, SOURCE.modules[m].A) for m in SOURCE.modules)


def test_what_hangs_on_modules_and_beside_them_is_kept(name: str, tmp_path: Path) -> None:
    modules = {
        "conv": factors(8, 27, 2, layout="conv", kernel=(3, 3)),
        "emb": factors(6, 50, 2, layout="embedding"),
        "fc": factors(12, 8, 2, layout="transposed", magnitude=torch.rand(12) + 1),
        "lin": factors(9, 7, 2, bias=torch.arange(9.0).half(), magnitude=torch.ones(9).bfloat16()),
    }
    source = Adapter(modules, {"head": torch.randn(4, 5), "steps": torch.tensor(7)})
    compress(name, source, tmp_path / "x.adz", max_error=0.4)
    again = adaptzip.reconstruct(tmp_path / "x.adz")
    assert source.extras.keys() == again.extras.keys()
    assert all(same_bits(source.extras[key], again.extras[key]) for key in source.extras)
    for key, module in modules.items():
        other = again.modules[key]
        assert (other.layout, other.kernel, other.shape) == (module.layout, module.kernel, module.shape)
        for part in ("magnitude", "bias"):
            ours, theirs = getattr(other, part), getattr(module, part)
            assert (ours is None) == (theirs is None)
            assert theirs is None or same_bits(ours, theirs)


def _linear(folder: Path) -> Trained:
    return train(llama(), folder, r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"])


def _conv1d(folder: Path) -> Trained:
    return train(gpt2(), folder, r=3, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)


@pytest.mark.parametrize(("trained", "model"), [(_linear, llama), (_conv1d, gpt2)], ids=["Linear", "Conv1D"])
def test_peft_loads_and_merges_its_export(
    name: str, trained: Callable[[Path], Trained], model: Callable[[], Any], tmp_path: Path
) -> None:
    before = trained(tmp_path / "trained")
    source = adaptzip.read(before.folder)
    compressed = compress(name, source, tmp_path / "x.adz")
    adaptzip.export(tmp_path / "x.adz", tmp_path / "peft")
    merged = merged_by_peft(model(), tmp_path / "peft")
    restored = adaptzip.reconstruct(compressed)
    changed = 0
    for key, base in before.base.items():
        module = key.removesuffix(".weight")
        delta = restored.modules[module].weight_delta() if module in restored.modules else torch.zeros(())
        changed += module in restored.modules
        torch.testing.assert_close(merged[key], base + delta, atol=1e-6, rtol=1e-5)
    assert changed == len(source.modules) > 0
    assert relative_error(source, restored) == pytest.approx(compressed.provenance.relative_error, rel=1e-3)


def test_every_method_has_a_page() -> None:
    folder = Path(__file__).parents[2] / "formats" / "methods"
    assert {page.stem for page in folder.glob("*.md")} == set(methods.names()) - set(OUTSIDE)


def test_unknown_methods_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="'nothing' is unknown") as caught:
        adaptzip.compress(SOURCE, to="nothing")
    assert caught.value.hint == f"methods: {', '.join(methods.names())}"


def test_layouts_hold_for_shapes_that_no_adapter_has(name: str) -> None:
    """A reader asks for layouts of any shape, before it knows that a file is sound."""
    method, config = methods.load(name), fitted(name).config
    for site in (Site(1, 1), Site(1, 97), Site(4096, 3)):
        for rank in {1, method.max_rank(site, config)} - {0}:
            specs = method.layout(site, rank, config)
            assert all(spec.rows > 0 and spec.width >= 0 for spec in specs)
