"""A file remembers what its adapter's factors were, and export writes them as that again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import adaptzip
from adaptzip.checkpoints.peft.keys import split
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.meta import Meta
from adaptzip.errors import RefusedError
from adaptzip.restoring.exporting import export
from adaptzip.testing.adapters import adapter
from tests.cases.tiny_peft import bert, llama, merged_by_peft, train


def cast(folder: Path, dtype: torch.dtype) -> None:
    """Store the factors in another dtype, as training in it does; the rest stays."""
    path = folder / "adapter_model.safetensors"
    tensors = {key: t.to(dtype) if split(key) is not None else t for key, t in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


def dtypes(folder: Path) -> tuple[set[torch.dtype], set[torch.dtype]]:
    """Of the factors, and of everything else."""
    tensors = load_file(folder / "adapter_model.safetensors")
    own, other = ({t.dtype for key, t in tensors.items() if (split(key) is not None) == own} for own in (True, False))
    return own, other


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("to", ["svd", "loretta"])
def test_factors_come_back_in_the_dtype_they_had(dtype: torch.dtype, to: str, tmp_path: Path) -> None:
    train(bert(), tmp_path / "source", r=2, target_modules=["query"], task_type="SEQ_CLS")
    cast(tmp_path / "source", dtype)
    adaptzip.compress(tmp_path / "source", tmp_path / "x.adz", to=to, max_error=0.2)
    assert adaptzip.reconstruct(tmp_path / "x.adz").meta.dtype == dtype
    export(tmp_path / "x.adz", tmp_path / "copy")
    assert dtypes(tmp_path / "copy") == ({dtype}, {torch.float32})
    exact = adaptzip.reconstruct(tmp_path / "x.adz")
    rounded = adaptzip.read(tmp_path / "copy")
    for name, module in exact.modules.items():
        near = 2 * torch.finfo(dtype).eps * float(module.A.norm() * module.B.norm())
        assert module.A.dtype == torch.float32
        assert float((module.delta() - rounded.modules[name].delta()).norm()) <= near + 1e-6
    merged_by_peft(bert(), tmp_path / "copy")


def test_an_asked_for_dtype_and_the_portable_profile_come_first(tmp_path: Path) -> None:
    train(llama(), tmp_path / "source", r=2, target_modules=["q_proj"])
    cast(tmp_path / "source", torch.bfloat16)
    adaptzip.compress(tmp_path / "source", tmp_path / "x.adz", max_error=0.2)
    export(tmp_path / "x.adz", tmp_path / "wide", dtype="float32")
    export(tmp_path / "x.adz", tmp_path / "portable", portable=True)
    assert dtypes(tmp_path / "wide")[0] == dtypes(tmp_path / "portable")[0] == {torch.float32}
    again = adaptzip.compress(adaptzip.read(tmp_path / "x.adz"), max_error=0.3)
    assert again.dtype == "BF16"


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((torch.float16, torch.bfloat16), "F32"),
        ((torch.bfloat16, torch.float32), "F32"),
        ((torch.float64, torch.float64), "F32"),
        ((torch.float16, torch.float16), "F16"),
    ],
)
def test_of_several_dtypes_it_is_the_one_that_holds_all(kinds: tuple[torch.dtype, torch.dtype], expected: str) -> None:
    given = adapter([(9, 7, 2), (5, 7, 2)])
    modules = {
        name: LoraFactors(m.A.to(kind), m.B.to(kind))
        for (name, m), kind in zip(given.modules.items(), kinds, strict=True)
    }
    assert adaptzip.compress(Adapter(modules), max_error=0.3).dtype == expected
    assert adaptzip.compress(Adapter(modules), lossless=True).dtype == "F32"


def test_a_lossless_file_has_each_factors_own_dtype(tmp_path: Path) -> None:
    modules = {"a": LoraFactors(torch.ones(1, 3).half(), torch.ones(2, 1).bfloat16())}
    adaptzip.compress(Adapter(modules), tmp_path / "x.adz", lossless=True)
    export(tmp_path / "x.adz", tmp_path / "copy")
    again = adaptzip.read(tmp_path / "copy").modules["a"]
    assert (again.A.dtype, again.B.dtype) == (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("power", [-30, -14, 0, 14, 30])
@pytest.mark.parametrize("own", [True, False])
def test_float16_holds_what_it_can_once_the_factors_are_balanced(power: int, own: bool, tmp_path: Path) -> None:
    given = adapter([(9, 7, 2)])
    name, module = next(iter(given.modules.items()))
    far = LoraFactors(module.A * 2.0**power, module.B * 2.0**-power)
    source = Adapter({name: far}, meta=Meta(dtype=torch.float16 if own else None))
    export(source, tmp_path / "copy", dtype=None if own else "float16")
    again = adaptzip.read(tmp_path / "copy").modules[name]
    assert again.A.dtype == again.B.dtype == torch.float16
    assert float((again.delta() - module.delta()).norm()) < 1e-3 * float(module.delta().norm())


@pytest.mark.parametrize(("power", "told"), [(40, "beyond 65504"), (-40, "float16 rounds smaller ones badly")])
def test_what_float16_cannot_hold_at_all_is_refused_by_name(power: int, told: str, tmp_path: Path) -> None:
    module = adapter([(9, 7, 2)]).modules["m.0"]
    source = Adapter({"far": LoraFactors(module.A, module.B * 2.0**power)}, meta=Meta(dtype=torch.float16))
    with pytest.raises(RefusedError, match=f"module far: .*{told}") as caught:
        export(source, tmp_path / "copy")
    assert "`dtype=" in str(caught.value.hint)
    export(source, tmp_path / "copy", dtype="float32")
