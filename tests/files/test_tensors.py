"""The safetensors files written are those of the safetensors library, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor

from adaptzip.files.dtypes import DTYPES
from adaptzip.files.tensors import build_header, fits, pending, write_tensors
from adaptzip.files.weights import open_weights


def written(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> bytes:
    pendings = {key: pending(tensor) for key, tensor in tensors.items()}
    with path.open("wb") as handle:
        write_tensors(handle, pendings, build_header(pendings, metadata))
    return path.read_bytes()


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    numbers = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(len(shape)))
    return numbers.to(torch.float32).to(dtype) if dtype.is_floating_point else numbers.to(dtype)


def test_every_dtype_is_written_as_by_the_library(tmp_path: Path) -> None:
    tensors = {f"t{n}.{name}": random_tensor((n + 1, 3), dtype) for n, (name, dtype) in enumerate(DTYPES.items())}
    tensors |= {f"a.{key}": tensor.clone() for key, tensor in tensors.items()}
    metadata = {"format": "pt"}
    assert written(tensors, metadata, tmp_path / "f") == save(tensors, metadata)


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(lambda key: key != "__metadata__"),
        st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(sorted(DTYPES))),
        max_size=6,
    ),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=1),
)
def test_any_names_and_shapes(
    tmp_path_factory: pytest.TempPathFactory,
    layout: dict[str, tuple[list[int], str]],
    metadata: dict[str, str],
) -> None:
    tensors = {key: random_tensor(tuple(shape), DTYPES[dtype]) for key, (shape, dtype) in layout.items()}
    path = tmp_path_factory.mktemp("written") / "f"
    assert written(tensors, metadata, path) == save(tensors, metadata or None)
    opened = open_weights(path)
    assert opened.metadata == metadata
    assert opened.tensors.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert opened.tensors[key].dtype == tensor.dtype
        assert opened.tensors[key].shape == tensor.shape
        assert opened.tensors[key].to(torch.float64).equal(tensor.to(torch.float64))
    assert opened.header is not None
    assert fits({key: pending(tensor) for key, tensor in tensors.items()}, opened.header)


def test_views_and_other_strides_are_written_by_value(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {"t": base.T, "part": base[1:3, ::2], "half": base}
    pendings = {"t": pending(base.T), "part": pending(base[1:3, ::2]), "half": pending(base, torch.float16)}
    with (tmp_path / "f").open("wb") as handle:
        write_tensors(handle, pendings, build_header(pendings, {}))
    opened = open_weights(tmp_path / "f").tensors
    assert all(torch.equal(opened[key].float(), tensor) for key, tensor in tensors.items())


def test_reading_maps_the_file_instead_of_copying_it(tmp_path: Path) -> None:
    written({"a": torch.ones(1000), "b": torch.ones(1000)}, {"format": "pt"}, tmp_path / "f")
    opened = open_weights(tmp_path / "f").tensors
    assert opened["b"].data_ptr() - opened["a"].data_ptr() == 4000
    opened["a"].zero_()
    assert open_weights(tmp_path / "f").tensors["a"].sum() == 1000
