"""What every method that is not linear must do: functions behind layers, trained, stored, run, and never merged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import adaptzip
from adaptzip import methods
from adaptzip.core.comparing import diff
from adaptzip.core.compressed import Site
from adaptzip.core.function_method import AnyFunctionMethod, FunctionMethod
from adaptzip.distillation.distilling import distill
from adaptzip.distillation.preparing import DataOptions
from adaptzip.distillation.schedules import Schedule
from adaptzip.errors import FormatError, RefusedError, UsageError
from adaptzip.models.live.batches import Example, hold_out
from adaptzip.reports.evaluation import NOTHING, evaluate
from adaptzip.reports.verifying import verify
from adaptzip.restoring.functions import functions, read_either
from adaptzip.testing import FunctionMethodTests
from adaptzip.testing.adapters import adapter
from formats.make_golden import CASES
from tests.cases.evaluation_cases import classifier
from tests.cases.models_on_disk import TEXTS

NAMES = sorted(set(methods.names()) - set(methods.fittable()))
EXAMPLES = [Example(f"{one} {other}") for one in TEXTS for other in TEXTS]
SOURCE = adapter({"a": (40, 24, 6)}, seed=4)
GOLDEN = Path(__file__).parents[2] / "formats" / "golden"


def test_there_is_one() -> None:
    assert NAMES


def loaded(name: str) -> AnyFunctionMethod:
    found = methods.load(name)
    assert isinstance(found, FunctionMethod)
    return found


globals().update({f"Test_{name}": type(name, (FunctionMethodTests,), {"method": loaded(name)}) for name in NAMES})


_NO_WEIGHTS = r"not linear|functions behind layers|functions that were distilled"


@pytest.fixture(params=NAMES)
def method(request: pytest.FixtureRequest) -> AnyFunctionMethod:
    return loaded(request.param)


def test_it_is_put_behind_layers_that_are_there(method: AnyFunctionMethod) -> None:
    layers = {"model.layers.0.mlp.down_proj": 32, "model.layers.0.mlp.up_proj": 80, "classifier.out_proj": 4}
    assert method.places(layers, method.config_type()) == {"model.layers.0.mlp.down_proj": Site(32, 32)}
    with pytest.raises(RefusedError, match="no layer"):
        method.places({"x": 4}, method.config_type())


def test_it_can_not_be_fitted(method: AnyFunctionMethod) -> None:
    for options in ({}, {"lossless": True}, {"budget": "2kB"}):
        with pytest.raises(RefusedError, match="not linear") as caught:
            adaptzip.compress(SOURCE, to=method.name, **options)
        assert "distill" in (caught.value.hint or "")
    assert adaptzip.plan(SOURCE, budget="2kB", methods=[method.name]).refusals
    assert method.name not in {row.method for row in adaptzip.plan(SOURCE, budget="2kB").refusals}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """(base, teacher, file) of the first such method."""
    folder = tmp_path_factory.mktemp("functions")
    base, teacher = classifier(folder)
    distill(
        output=folder / "x.adz",
        teacher=teacher,
        base=base,
        data=EXAMPLES,
        to=NAMES[0],
        budget="2500B",
        schedule=Schedule(steps=60, batch=8, every=20),
        data_options=DataOptions(max_tokens=32),
    )
    return base, teacher, folder / "x.adz"


def test_training_makes_it_act_like_the_teacher(trained: tuple[Path, Path, Path]) -> None:
    base, teacher, path = trained
    assert path.stat().st_size <= 2500
    held = hold_out(EXAMPLES, 0.1, 0)[1]
    found = evaluate(base, teacher, {"file": path}, held, max_tokens=32)
    before, after = found.rows[NOTHING].kl, found.rows["file"].kl
    assert before is not None
    assert after is not None
    assert after < 0.3 * before
    told = adaptzip.open(path).provenance.distilled
    assert told is not None
    assert after == pytest.approx(told.distilled[0], rel=0.05)


@pytest.mark.filterwarnings("ignore:no file that training saw is nearer")
def test_a_file_can_be_trained_further(trained: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, teacher, path = trained
    made = distill(
        path,
        tmp_path / "y.adz",
        teacher=teacher,
        base=base,
        data=EXAMPLES,
        schedule=Schedule(steps=20, batch=8, every=10),
        data_options=DataOptions(max_tokens=32),
    )
    fitted, distilled = made.rows["fitted"].kl, made.rows["distilled"].kl
    assert fitted is not None
    assert distilled is not None
    told = adaptzip.open(path).provenance.distilled
    assert told is not None
    assert fitted == pytest.approx(told.distilled[0], rel=1e-2)
    assert distilled <= fitted
    assert (tmp_path / "y.adz").stat().st_size <= path.stat().st_size


def test_no_weights_come_of_it(trained: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, teacher, path = trained
    for use in (
        lambda: adaptzip.reconstruct(path),
        lambda: adaptzip.read(path),
        lambda: adaptzip.export(path, tmp_path / "peft"),
        lambda: adaptzip.merge(path, base, tmp_path / "merged"),
        lambda: diff(adaptzip.read(teacher), adaptzip.read(path)),
        lambda: evaluate(base, path, {}, EXAMPLES[:2]),
    ):
        with pytest.raises(
            RefusedError, match=r"not linear|functions behind layers|functions that were distilled"
        ) as caught:
            use()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_it_is_verified_alone(trained: tuple[Path, Path, Path]) -> None:
    assert verify(trained[2]).passed
    with pytest.raises(RefusedError, match="not linear"):
        verify(trained[2], adaptzip.read(trained[1]))


def test_what_is_read_is_run(trained: tuple[Path, Path, Path]) -> None:
    found = functions(trained[2])
    assert found.modules
    width = next(iter(adaptzip.open(trained[2]).sites.values())).out
    x = torch.randn(2, 3, width)
    function = next(iter(found.modules.values()))
    assert function(x).shape == x.shape
    assert not torch.equal(function(x), x)
    assert type(read_either(trained[2])) is type(found)
    with pytest.raises(UsageError, match="no functions"):
        functions(GOLDEN / "default.adz")


def test_golden_files_are_the_documented_function() -> None:
    """Down and up as the independent decoder finds them, and by hand what stands between them."""
    from formats import decoder

    path = GOLDEN / "loretta-adp-tanh.adz"
    assert CASES[path.stem][1]["activation"] == "tanh"
    stored = decoder.decode(path.read_bytes()).modules
    found = functions(path)
    assert found.modules.keys() < stored.keys()  # One is the identity.
    for name, function in found.modules.items():
        down, up = (torch.from_numpy(matrix) for matrix in stored[name][:2])
        x = torch.randn(4, len(up))
        torch.testing.assert_close(function(x), x + torch.tanh(x @ down.T) @ up.T)


def test_inspect_says_so(trained: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    from adaptzip.cli._output import Output
    from adaptzip.cli._show_archive import show

    show(trained[2], Output())
    assert "can't be merged" in capsys.readouterr().out
    show(trained[2], Output(as_json=True))
    assert json.loads(capsys.readouterr().out)["linear"] is False


def test_damage_names_the_file() -> None:
    path = GOLDEN.parent / "must-reject" / "function-bottleneck.adz"
    with pytest.raises(FormatError, match="bottleneck") as caught:
        read_either(path)
    assert str(caught.value).startswith(str(path))
