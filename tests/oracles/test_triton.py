"""Triton's own interpreter runs the kernel for GPUs, which gives the numbers of that for CPUs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import adaptzip
from adaptzip.adz.coding import entropy
from adaptzip.adz.coding.decoding import decode_module
from adaptzip.adz.coding.lanes import Numbers, decode_together
from adaptzip.adz.coding.levels import Levels
from adaptzip.adz.coding.on_gpu import OPTIONS, _on, decode_on
from adaptzip.adz.coding.tables import Class
from adaptzip.adz.coding.trellis import Quantised
from adaptzip.core import compiled
from adaptzip.errors import FormatError
from adaptzip.restoring.reconstruction import coder_of
from adaptzip.testing.adapters import adapter
from tests.adz.coding.test_lanes import MAX_RANK, coded, layout_of

pytestmark = pytest.mark.oracle
triton = pytest.importorskip("triton", reason="triton has no wheel for this system")
KERNEL = "adaptzip.adz.coding.kernels.cuda"
CPU = torch.device("cpu")
Shapes = list[tuple[int, int]]
SHAPES = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 16)), min_size=1, max_size=2)
"""Rows and width of each tensor of a module; the interpreter takes milliseconds for each number."""


@pytest.fixture(scope="module", autouse=True)
def _interpreted() -> Iterator[None]:
    """The kernel is one for the interpreter if it is imported now; what others import of triton stays as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.delitem(sys.modules, KERNEL, raising=False)
        patch.setattr(compiled, "_WORTHWHILE", 0)
        patch.setattr(torch.cuda, "device", lambda _: nullcontext())
        yield
    sys.modules.pop(KERNEL, None)


def decoded(chunks: Sequence[bytes], modules: Sequence[Shapes], *, by_triton: bool) -> list[Numbers | None]:
    layouts = [layout_of(shapes) for shapes in modules]
    if not by_triton:
        return decode_together(chunks, MAX_RANK, layouts)
    from adaptzip.adz.coding.kernels.cuda import decode

    return decode_together(chunks, MAX_RANK, layouts, lambda begun: _on(CPU, decode, begun))


def check(one: Numbers | None, other: Numbers | None) -> None:
    assert one is not None
    assert other is not None
    assert one.rank == other.rank
    assert all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))


@settings(max_examples=12, deadline=None)
@example(modules=[[(3, 16), (3, 9)]] * 3, outlier=0, seed=0)
@example(modules=[[(3, 16)], [(1, 1), (3, 7)]], outlier=2**19, seed=3)
@given(
    modules=st.lists(SHAPES, min_size=1, max_size=4), outlier=st.sampled_from([0, 100, 2**19]), seed=st.integers(0, 99)
)
def test_modules_side_by_side(modules: list[Shapes], outlier: int, seed: int) -> None:
    """With rows of zeros, of raw bits and of far numbers, some so short that their words end before their numbers."""
    rng = np.random.default_rng(seed)
    modules = [shapes for shapes in modules if any(rows for rows, _ in shapes)]
    chunks = [coded(shapes, rng, outlier) for shapes in modules]
    ours, theirs = (decoded(chunks, modules, by_triton=by_triton) for by_triton in (True, False))
    for one, other in zip(ours, theirs, strict=True):
        check(one, other)


@settings(max_examples=25, deadline=None)
@given(noise=st.binary(min_size=1, max_size=40), shapes=SHAPES)
def test_noise(noise: bytes, shapes: Shapes) -> None:
    """Escapes beyond the format's levels among it; what is no module is none by both."""
    (one,), (other,) = (decoded([noise], [shapes], by_triton=by_triton) for by_triton in (True, False))
    assert (one is None) == (other is None)
    if one is not None:
        check(one, other)


@settings(max_examples=15, deadline=None)
@given(shapes=SHAPES, place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), seed=st.integers(0, 99))
def test_damage_stays_with_its_module(shapes: Shapes, place: float, bit: int, seed: int) -> None:
    shapes = [*shapes, (1, 12)]
    whole = coded(shapes, np.random.default_rng(seed), 0)
    chunk = bytearray(whole)
    chunk[int(place * len(chunk))] ^= 1 << bit
    (other,) = decoded([bytes(chunk)], [shapes], by_triton=False)
    found = decoded([whole, bytes(chunk), whole], [shapes] * 3, by_triton=True)
    if not any(found):  # The last word is 0, so that nothing was begun.
        assert other is None
        return
    check(found[0], decoded([whole], [shapes], by_triton=False)[0])
    check(found[2], found[0])
    assert (found[1] is None) == (other is None)
    if other is not None:
        check(found[1], other)


@pytest.mark.parametrize(("level", "raw"), [(2**22, False), (-(2**21) - 40, False), (2**23, True)])
def test_a_level_beyond_the_formats_is_left_to_the_cpu(level: int, raw: bool) -> None:
    shapes = [(1, 3)]
    levels, quantiser = np.array([[1, level, 0]], np.int32), np.zeros((1, 3), np.uint8)
    written = Levels(Quantised(levels, quantiser), (Class(2, 60 if raw else 12),))
    whole, beyond = coded(shapes, np.random.default_rng(0), 0), entropy.encode(1, MAX_RANK, [written])
    with pytest.raises(FormatError, match="level"):
        entropy.decode(beyond, MAX_RANK, layout_of(shapes), "m")
    first, wrong, last = decoded([whole, beyond, whole], [shapes] * 3, by_triton=True)
    assert first is not None
    assert wrong is None
    assert last is not None


def test_a_row_that_may_be_too_long_is_left_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(1, 8)]
    chunk = coded(shapes, np.random.default_rng(0), 2**19)
    assert decoded([chunk], [shapes], by_triton=True) != [None]
    monkeypatch.setattr(f"{KERNEL}._BOUND", 2.0**39)
    assert decoded([chunk], [shapes], by_triton=True) == [None]


def test_tensors_of_a_file() -> None:
    compressed = adaptzip.compress(adapter([(12, 9, 2), (7, 14, 2)]), to="svd", max_error=0.2)
    coder, chunks = coder_of(compressed), dict(zip(compressed.sites, compressed.chunks, strict=True))
    found = decode_on(CPU, coder, chunks, compressed.step)
    assert found.keys() == chunks.keys()
    for name, chunk in chunks.items():
        tensors = decode_module(coder, chunk, compressed.step, name)
        assert found[name].keys() == tensors.keys()
        assert all(torch.equal(tensor, found[name][role]) for role, tensor in tensors.items())


@pytest.mark.parametrize("capability", [75, 80, 90, 100])
def test_it_compiles_for_devices(capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the interpreter runs may still be none of Triton's language."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delitem(sys.modules, KERNEL, raising=False)
    decode = import_module(KERNEL).decode
    types = ("*u32", "*u64", "*i64", "*i64", "*i64", "*u64", "*u64", "*fp32", "*i32")
    source = ASTSource(fn=decode, signature=dict(zip(decode.arg_names, types, strict=True)))
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=OPTIONS)
    assert made.asm["cubin"]
