"""What every method must do (`adaptzip.testing.MethodTests`); a new method is tested by being there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptzip
from adaptzip import methods
from adaptzip.core.method import AnyMethod
from adaptzip.errors import UsageError
from adaptzip.testing import MethodTests
from adaptzip.testing.adapters import adapter, relative_error
from adaptzip.testing.trials import compress
from tests.cases import seventh_method, sixth_method
from tests.cases.any_method import EVERY, OUTSIDE
from tests.cases.plugging import installed
from tests.cases.tiny_peft import Trained, gpt2, llama, merged_by_peft, train


class TestSixth(MethodTests):
    method = sixth_method.METHOD
    # Its coordinates are roots of the update's.
    scale_free = False


class TestSeventh(MethodTests):
    method = seventh_method.METHOD


def conformance_of(method: AnyMethod) -> type[MethodTests]:
    """The class of tests that an author would write."""
    return type(f"Test-{method.name}", (MethodTests,), {"method": method})


globals().update({f"Test_{name}": conformance_of(methods.load_fittable(name)) for name in methods.fittable()})


@pytest.fixture
def _outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with installed(tmp_path_factory.mktemp("toys")):
        yield


def _linear(folder: Path) -> Trained:
    return train(llama(), folder, r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"])


def _conv1d(folder: Path) -> Trained:
    return train(gpt2(), folder, r=3, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)


@pytest.mark.usefixtures("_outside")
@pytest.mark.parametrize("name", EVERY)
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
        adaptzip.compress(adapter([(9, 7, 2)]), to="nothing")
    assert caught.value.hint == f"methods: {', '.join(methods.names())}"
