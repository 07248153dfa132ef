"""From a file, or from memory, back to factors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import adaptzip
from adaptzip.adz.coding.packing import pack_tensors
from adaptzip.core.comparing import same_bits
from adaptzip.core.compressed import Compressed, ExtraEntry, PackedExtras, Site
from adaptzip.errors import FormatError, RefusedError, UsageError
from adaptzip.methods.svd import METHOD
from adaptzip.testing.adapters import adapter


@pytest.fixture(scope="module")
def compressed() -> Compressed:
    source = adapter({"a": (20, 30, 2), "b": (9, 7, 1), "c": (30, 20, 3)}, extras={"head": torch.ones(3)})
    return adaptzip.compress(source, max_error=0.2)


def test_factors_are_plain_float32_tensors(compressed: Compressed) -> None:
    for module in adaptzip.reconstruct(compressed).modules.values():
        for factor in (module.A, module.B):
            assert factor.dtype is torch.float32
            assert factor.is_contiguous()
            assert factor.device.type == "cpu"
        assert module.scaling == 1
        assert module.delta().shape == module.shape


def test_directions_have_unit_length(compressed: Compressed) -> None:
    for module in adaptzip.reconstruct(compressed).modules.values():
        assert torch.allclose(module.B.square().sum(0), torch.ones(module.rank), atol=1e-5)


def test_some_modules_are_as_in_the_whole(compressed: Compressed) -> None:
    whole, part = adaptzip.reconstruct(compressed), adaptzip.reconstruct(compressed, modules={"c", "a"})
    assert list(part.modules) == ["a", "c"]
    assert not part.extras
    assert all(same_bits(part.modules[name].A, whole.modules[name].A) for name in part.modules)
    assert part.meta == whole.meta


def test_no_module_is_a_choice_too(compressed: Compressed) -> None:
    assert not adaptzip.reconstruct(compressed, modules=[]).modules


def test_the_number_of_threads_does_not_matter(compressed: Compressed) -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append(adaptzip.reconstruct(compressed))
    finally:
        torch.set_num_threads(before)
    one, four = results
    assert all(same_bits(one.modules[name].A, four.modules[name].A) for name in one.modules)


def test_an_unknown_module_is_refused_by_name(compressed: Compressed) -> None:
    with pytest.raises(UsageError, match="'d' is not in the file") as caught:
        adaptzip.reconstruct(compressed, modules=["a", "d"])
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "other"}, "made by method 'other', which is not installed"),
        ({"method_version": METHOD.version + 1}, f"version {METHOD.version + 1} is newer than {METHOD.version}"),
        ({"config": {"colour": 1}}, "has no option 'colour'"),
    ],
)
def test_what_is_not_known_is_refused(compressed: Compressed, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        adaptzip.reconstruct(dataclasses.replace(compressed, **changes))


@pytest.mark.parametrize(
    ("role", "name", "shape"),
    [("magnitude", "z", (20,)), ("bias", "a", (30,)), ("bias", "a", (20, 1)), ("odd", "a", ())],
)
def test_extras_must_fit_their_modules(compressed: Compressed, role: str, name: str, shape: tuple[int, ...]) -> None:
    extras = pack_tensors([(role, name, torch.ones(shape))])
    with pytest.raises(FormatError, match=f"{name!r}"):
        adaptzip.reconstruct(dataclasses.replace(compressed, extras=extras))


def test_extras_that_are_not_there_are_missed(compressed: Compressed) -> None:
    extras = PackedExtras((ExtraEntry("extra", "x", "F32", (100,), "F32"),), compressed.extras.payload)
    with pytest.raises(FormatError, match="packed tensors"):
        adaptzip.reconstruct(dataclasses.replace(compressed, extras=extras))


def test_errors_name_the_file_and_the_module(compressed: Compressed, tmp_path: Path) -> None:
    chunks = [bytes(chunk) for chunk in compressed.chunks]
    chunks[1] = chunks[1] + b"\1\1\1\1"
    broken = dataclasses.replace(compressed, chunks=chunks, grouped=b"")
    adaptzip.adz.container.writer.write(broken, tmp_path / "x.adz")
    with pytest.raises(FormatError, match=r"x\.adz: module 'b'"):
        adaptzip.reconstruct(tmp_path / "x.adz")
    assert list(adaptzip.reconstruct(tmp_path / "x.adz", modules=["a"]).modules) == ["a"]


def test_rows_of_zeros_have_no_direction() -> None:
    tensors = {"U": torch.zeros(2, 4), "V": torch.ones(2, 3)}
    tensors["U"][0, 1] = -3
    A, B = METHOD.reconstruct(tensors, Site(4, 3), METHOD.config_type())
    assert torch.equal(B, torch.tensor([[0.0, 0], [-1, 0], [0, 0], [0, 0]]))
    assert torch.equal(A, tensors["V"])


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.complex64, "float16"])
def test_dtypes_that_no_factor_has_are_refused(compressed: Compressed, dtype: Any) -> None:
    with pytest.raises(UsageError, match="were asked for") as caught:
        adaptzip.reconstruct(compressed, dtype=dtype)
    assert "torch.float16" in (caught.value.hint or "")


def test_one_text_is_not_several_modules(compressed: Compressed) -> None:
    with pytest.raises(UsageError, match="modules is the text 'm.0', expected several names"):
        adaptzip.reconstruct(compressed, modules="m.0")
