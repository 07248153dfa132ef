"""What export writes is read back before anybody sees it, and held against the adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptzip
from adaptzip.checkpoints import WriteOptions
from adaptzip.checkpoints._readback import confirm
from adaptzip.checkpoints._rescaling import balanced, fold, pad
from adaptzip.checkpoints.peft import writer
from adaptzip.checkpoints.peft.describe import config_text
from adaptzip.core.adapter import Adapter
from adaptzip.errors import CheckFailedError
from adaptzip.restoring.exporting import export
from adaptzip.testing.adapters import adapter, factors

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q", "v"]}
HEAD = "base_model.model.score.weight"
PLAIN = WriteOptions()


def source() -> Adapter:
    return adapter({"a.q": (8, 6, 2), "a.v": (5, 6, 2)}, extras={HEAD: torch.arange(6.0)}, config=CONFIG)


def with_module(name: str, **changes: Any) -> Adapter:
    given = source()
    return replace(given, modules={**given.modules, name: replace(given.modules[name], **changes)})


Change = Callable[[Adapter], Adapter]
CHANGES: dict[str, tuple[Change, str]] = {
    "a module is missing": (lambda a: replace(a, modules={"a.q": a.modules["a.q"]}), "'a.v' is missing"),
    "a stranger": (lambda a: replace(a, modules={**a.modules, "x": factors(2, 2, 1)}), "'x' was written"),
    "another shape": (lambda a: with_module("a.q", A=torch.ones(2, 7)), r"'a.q' would come back as \[8, 7\]"),
    "another layout": (lambda a: with_module("a.q", layout="embedding"), "as .* embedding"),
    "another scale": (lambda a: with_module("a.v", scaling=1.01), "'a.v' would come back with its update off"),
    "another number": (lambda a: with_module("a.v", B=a.modules["a.v"].B * 1.001), "update off"),
    "no update": (lambda a: with_module("a.v", B=a.modules["a.v"].B * 0), "update off"),
    "another bias": (lambda a: with_module("a.q", bias=torch.ones(8)), "another bias"),
    "another magnitude": (lambda a: with_module("a.q", magnitude=torch.ones(8)), "another DoRA magnitude"),
    "no head": (lambda a: replace(a, extras={}), HEAD),
    "another head": (lambda a: replace(a, extras={HEAD: torch.arange(6.0) + 1e-6}), HEAD),
    "a head of another dtype": (lambda a: replace(a, extras={HEAD: torch.arange(6.0).half()}), HEAD),
    "no target": (
        lambda a: replace(a, meta=replace(a.meta, config=CONFIG | {"target_modules": ["q"]})),
        "'a.v' is not among the targets",
    ),
    "saved whole": (
        lambda a: replace(a, meta=replace(a.meta, config=CONFIG | {"modules_to_save": ["v"]})),
        "'a.v' is not among the targets",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_difference_is_found(name: str) -> None:
    change, told = CHANGES[name]
    confirm(source(), source(), PLAIN)
    with pytest.raises(CheckFailedError, match=told):
        confirm(source(), change(source()), PLAIN)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_cast_is_allowed_its_rounding_and_no_more(dtype: torch.dtype) -> None:
    given = source()
    cast = replace(given, modules={n: replace(m, A=m.A.to(dtype), B=m.B.to(dtype)) for n, m in given.modules.items()})
    confirm(given, cast, WriteOptions(dtype=dtype))
    off = {n: replace(m, B=m.B * (1 + 8 * torch.finfo(dtype).eps)) for n, m in cast.modules.items()}
    with pytest.raises(CheckFailedError, match="update off"):
        confirm(given, replace(cast, modules=off), WriteOptions(dtype=dtype))


def test_the_same_update_in_another_form_passes() -> None:
    given = with_module("a.q", scaling=0.3)
    folded = {name: fold(pad(module, 5)) for name, module in given.modules.items()}
    confirm(given, replace(given, modules=folded), WriteOptions(portable=True))
    gone = replace(given, modules={**given.modules, "a.v": factors(5, 6, 0)})
    confirm(gone, replace(gone, modules={"a.q": gone.modules["a.q"]}), PLAIN)


def test_balanced_factors_are_the_same_update_exactly() -> None:
    module = factors(8, 6, 2)
    far = replace(module, B=module.B * 2.0**-30, A=module.A * 2.0**4)
    near = balanced(far)
    assert torch.equal(near.delta(), far.delta())
    assert 1 / 64 < float(near.A.abs().max() / near.B.abs().max()) < 64
    assert balanced(module) is module


@pytest.mark.parametrize("broken", ["factor", "extra", "config", "nan"])
def test_nothing_is_published_that_does_not_read_back(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_tensors, real_text = writer.file_tensors, config_text

    def tensors(given: Adapter, dtype: torch.dtype | None) -> Any:
        made = real_tensors(given, dtype)
        key = {"factor": "base_model.model.a.v.lora_A.weight", "nan": "base_model.model.a.q.lora_B.weight"}.get(broken)
        if key:
            wrong = 2.0 if broken == "factor" else float("nan")
            made[key] = replace(made[key], make=lambda: torch.full(made[key].shape, wrong))
        if broken == "extra":
            made[HEAD] = replace(made[HEAD], make=lambda: torch.zeros(6))
        return made

    def text(given: Adapter) -> str:
        return real_text(given) if broken != "config" else json.dumps(CONFIG | {"lora_alpha": 3})

    monkeypatch.setattr(writer, "file_tensors", tensors)
    monkeypatch.setattr(writer, "config_text", text)
    told = {"factor": "'a.v'", "extra": HEAD, "config": "'a.q'", "nan": "NaN"}[broken]
    with pytest.raises(CheckFailedError, match=told) as caught:
        export(source(), tmp_path / "out")
    assert caught.value.exit_code == 1
    assert str(tmp_path / "out") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("as_", "to"), [("lora-xs", "lora-sb"), ("peft-vblora", "vblora")])
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float16"])
def test_native_dialects_are_read_back_too(
    as_: str, to: str, dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = adapter({f"a.{i}.q": (16, 16, 2) for i in range(3)}, config={"peft_type": "LORA", "bias": "none"})
    options: dict[str, Any] = {"rank": 2, "length": 4, "vectors": 24, "top_k": 2} if to == "vblora" else {}
    made = adaptzip.compress(given, to=to, max_error=0.9 if to == "vblora" else 0.1, **options)
    export(made, tmp_path / "out", as_=as_, dtype=dtype)
    from adaptzip.checkpoints import _peft_native, lora_xs
    from adaptzip.files import tensors as _safetensors

    def spoiled(handle: Any, tensors: Any, header: bytes) -> None:
        key = next(key for key in tensors if key.endswith(("q_lora_latent_mapping.weight", "_vector_bank")))
        twice = replace(tensors[key], make=lambda: tensors[key].make() * 2)
        _safetensors.write_tensors(handle, {**tensors, key: twice}, header)

    for module in (lora_xs, _peft_native):
        monkeypatch.setattr(module, "write_tensors", spoiled)
    with pytest.raises(CheckFailedError, match="update off"):
        export(made, tmp_path / "spoiled", as_=as_, dtype=dtype)
    assert not (tmp_path / "spoiled").exists()
