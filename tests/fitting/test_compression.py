"""Compressing adapters of every shape and kind, and getting back what was in them."""

from __future__ import annotations

import contextlib
import gc
import warnings
import weakref
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

import adaptzip
from adaptzip import Adapter, LoraFactors
from adaptzip.adz.coding.packing import ExtrasMode
from adaptzip.adz.container import writer
from adaptzip.core.comparing import diff, same_bits
from adaptzip.core.meta import Meta
from adaptzip.errors import AdaptzipWarning, CheckFailedError, RefusedError, UsageError
from adaptzip.files.tensors import build_header, pending, write_tensors
from adaptzip.testing.adapters import adapter, factors, relative_error

ROOT = Path(__file__).parents[2]
CONFIG = b"""{
  "peft_type": "LORA",  "r": 2,
  "lora_alpha": 3.0, "target_modules": ["q"], "base_model_name_or_path": "caf\xc3\xa9/model"
}
"""


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 1, 1)],
        [(1, 50, 1), (50, 1, 1)],
        [(64, 48, 1)],
        [(3, 4, 8)],
        [(16, 16, 16), (16, 200, 2), (200, 16, 1)],
    ],
    ids=["1x1", "vectors", "rank 1", "rank beyond the shape", "mixed"],
)
@pytest.mark.parametrize("error", [0.3, 0.02])
def test_shapes_and_ranks(shapes: list[tuple[int, int, int]], error: float, tmp_path: Path) -> None:
    source = adapter(shapes, seed=9)
    compressed = adaptzip.compress(source, tmp_path / "x.adz", max_error=error)
    again = adaptzip.reconstruct(tmp_path / "x.adz")
    assert relative_error(source, again) <= error * (1 + 1e-6)
    assert compressed.provenance.relative_error == pytest.approx(relative_error(source, again), rel=1e-3, abs=1e-6)
    for name, module in source.modules.items():
        assert again.modules[name].shape == module.shape
        assert again.modules[name].rank <= min(module.rank, *module.shape)


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_many_modules_of_mixed_shapes(count: int, tmp_path: Path) -> None:
    shapes = [(12, 8), (8, 12), (20, 8), (8, 8), (16, 24)]
    modules = {f"l.{i}.{i % 5}": (*shapes[i % 5], 1 + i % 4) for i in range(count)}
    source = adapter(modules)
    adaptzip.compress(source, tmp_path / "x.adz", max_error=0.3)
    again = adaptzip.reconstruct(tmp_path / "x.adz")
    assert list(again.modules) == sorted(modules)
    assert 0.29 < relative_error(source, again) <= 0.3
    assert writer.sizes(adaptzip.open(tmp_path / "x.adz"))["header"] < 600 + 12 * count


def test_scaling_and_dtype_do_not_matter() -> None:
    one = Adapter({"m": factors(20, 30, 3, scaling=0.25)})
    module = one.modules["m"]
    scaled = Adapter({"m": LoraFactors(module.A * 0.25, module.B)})
    assert list(adaptzip.compress(one).chunks) == list(adaptzip.compress(scaled).chunks)
    half = Adapter({"m": LoraFactors(module.A.bfloat16(), module.B.bfloat16(), 0.25)})
    full = Adapter({"m": LoraFactors(module.A.bfloat16().float(), module.B.bfloat16().float(), 0.25)})
    assert list(adaptzip.compress(half).chunks) == list(adaptzip.compress(full).chunks)


def test_a_zero_module_beside_others_costs_a_byte(tmp_path: Path) -> None:
    modules = dict(adapter([(20, 30, 3)]).modules)
    modules["z"] = LoraFactors(torch.randn(4, 30), torch.zeros(20, 4))
    adaptzip.compress(Adapter(modules), tmp_path / "x.adz")
    again = adaptzip.reconstruct(tmp_path / "x.adz").modules["z"]
    assert again.rank == 0
    assert again.shape == (20, 30)
    assert not again.delta().any()


def every_layout() -> Adapter:
    """A module of each layout, with what may hang on one."""
    modules = {
        "conv": factors(8, 27, 2, layout="conv", kernel=(3, 3)),
        "emb": factors(6, 50, 2, layout="embedding"),
        "exp[0]": factors(8, 12, 2, layout="expert"),
        "exp[1]": factors(8, 12, 2, layout="expert_transposed", seed=1),
        "fc": factors(12, 8, 2, layout="transposed", magnitude=torch.rand(12) + 1),
        "lin": factors(9, 7, 2, bias=torch.arange(9.0).half(), magnitude=torch.ones(9).bfloat16()),
    }
    return Adapter(modules, {"head": torch.randn(4, 5), "steps": torch.tensor(7)}, Meta(base_model="some/base"))


@pytest.mark.parametrize("options", [{"max_error": 0.2}, {"lossless": True}], ids=["svd", "lossless"])
def test_layouts_and_what_hangs_on_modules_are_carried(options: dict[str, Any], tmp_path: Path) -> None:
    source = every_layout()
    adaptzip.compress(source, tmp_path / "x.adz", **options)
    again = adaptzip.reconstruct(tmp_path / "x.adz")
    assert again.meta.base_model == "some/base"
    for name, module in source.modules.items():
        other = again.modules[name]
        assert (other.layout, other.kernel, other.shape) == (module.layout, module.kernel, module.shape)
        assert other.weight_delta().shape == module.weight_delta().shape
        for part in ("magnitude", "bias"):
            ours, theirs = getattr(other, part), getattr(module, part)
            assert (ours is None) == (theirs is None)
            assert theirs is None or same_bits(ours, theirs)
    assert source.extras.keys() == again.extras.keys()
    assert all(same_bits(source.extras[key], again.extras[key]) for key in source.extras)


@pytest.mark.parametrize("options", [{"max_error": 0.2}, {"lossless": True}], ids=["svd", "lossless"])
def test_a_bias_keeps_its_scale(options: dict[str, Any]) -> None:
    bias = torch.arange(9.0).half()
    source = Adapter({"lin": factors(9, 7, 2, scaling=0.5, bias=bias)})
    again = adaptzip.reconstruct(adaptzip.compress(source, **options))
    module = again.modules["lin"]
    assert module.bias is not None
    assert torch.equal(module.bias.float() * module.scaling, bias.float() * 0.5)
    assert diff(source, again).extras_equal == ("lin.bias",)


@pytest.mark.parametrize("mode", ["float16", "bfloat16", "int8"])
def test_rounded_extras_are_smaller(mode: ExtrasMode) -> None:
    source = adapter([(6, 5, 1)], extras={"head.weight": torch.randn(60, 50)})
    exact, rounded = adaptzip.compress(source), adaptzip.compress(source, extras=mode)
    assert len(rounded.extras.payload) < 0.6 * len(exact.extras.payload)
    tensor = adaptzip.reconstruct(rounded).extras["head.weight"]
    assert tensor.dtype is torch.float32
    assert torch.allclose(tensor, source.extras["head.weight"], atol=0.02)


def test_extras_count_in_every_size() -> None:
    bare = adapter([(60, 50, 4)])
    full = Adapter(bare.modules, {"head": torch.randn(500)}, bare.meta)
    with pytest.raises(CheckFailedError, match="500 bytes cannot be reached"):
        adaptzip.compress(full, budget="500B")
    assert writer.size(adaptzip.compress(bare, budget="500B")) <= 500
    assert 2000 < writer.size(adaptzip.compress(full, budget="2.4KB")) <= 2400


@pytest.fixture
def peft_folder(tmp_path: Path) -> Path:
    """A PEFT folder whose files are laid out as no library would: keys unsorted, own metadata, odd spacing."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for layer in (1, 0, 10):
        for part, shape in (("B", (6, 2)), ("A", (2, 8))):
            tensor = torch.randn(*shape, generator=generator)
            tensors[f"base_model.model.h.{layer}.q.lora_{part}.weight"] = tensor.half() if layer else tensor
    pendings = {key: pending(tensor) for key, tensor in tensors.items()}
    folder = tmp_path / "adapter"
    folder.mkdir()
    header = build_header(pendings, {"format": "pt", "note": "by hand"}) + b" " * 16
    with (folder / "adapter_model.safetensors").open("wb") as file:
        write_tensors(file, pendings, header)
    (folder / "adapter_config.json").write_bytes(CONFIG)
    return folder


def test_lossless_gives_the_files_back_byte_for_byte(peft_folder: Path, tmp_path: Path) -> None:
    compressed = adaptzip.compress(peft_folder, tmp_path / "x.adz", lossless=True)
    assert compressed.lossless
    assert compressed.provenance.relative_error == 0
    adaptzip.export(tmp_path / "x.adz", tmp_path / "out")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (peft_folder / file).read_bytes()


def test_lossless_is_smaller_than_the_source() -> None:
    source = adapter([(400, 300, 8)] * 4)
    assert writer.size(adaptzip.compress(source, lossless=True)) < 0.95 * 4 * source.parameters


def test_the_source_is_named_by_its_hash(peft_folder: Path, tmp_path: Path) -> None:
    compressed = adaptzip.compress(peft_folder, tmp_path / "x.adz")
    provenance = adaptzip.open(tmp_path / "x.adz").provenance
    assert provenance == compressed.provenance
    assert provenance.source_bytes == (peft_folder / "adapter_model.safetensors").stat().st_size
    assert provenance.source_hash is not None
    assert adaptzip.reconstruct(tmp_path / "x.adz").meta.base_model == "café/model"
    assert str(peft_folder).encode() not in (tmp_path / "x.adz").read_bytes()


def test_the_configuration_is_kept_in_its_order(tmp_path: Path) -> None:
    config = {"_z": [1, {"b": None, "a": "ü"}], "base_model_name_or_path": "b", "a": float("inf"), "r": 2}
    source = Adapter(adapter([(6, 5, 1)]).modules, {}, Meta(config=MappingProxyType(config), base_model="b"))
    adaptzip.compress(source, tmp_path / "x.adz", max_error=0.4)
    again = adaptzip.reconstruct(tmp_path / "x.adz").meta
    assert list(again.config.items()) == list(config.items())
    assert again.base_model == "b"


def test_a_base_that_the_configuration_does_not_name_is_kept(tmp_path: Path) -> None:
    meta = Meta(dialect="other", config={"base_model_name_or_path": "x"}, base_model="y")
    adaptzip.compress(Adapter(adapter([(6, 5, 1)]).modules, {}, meta), tmp_path / "x.adz", max_error=0.4)
    again = adaptzip.reconstruct(tmp_path / "x.adz").meta
    assert (again.dialect, again.base_model) == ("other", "y")


def test_the_seed_is_kept_and_changes_nothing_small(tmp_path: Path) -> None:
    source = adapter([(20, 30, 3)])
    one, other = adaptzip.compress(source), adaptzip.compress(source, tmp_path / "x.adz", seed=7)
    assert list(one.chunks) == list(other.chunks)
    assert adaptzip.open(tmp_path / "x.adz").provenance.seed == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lossless": True, "max_error": 0.1}, "lossless leaves nothing"),
        ({"lossless": True, "budget": "9KB"}, "lossless leaves nothing"),
        ({"lossless": True, "extras": "int8"}, "lossless leaves nothing"),
        ({"extras": "int4"}, "extras mode 'int4' is unknown"),
        ({"device": "abacus"}, "device 'abacus' is unknown"),
        ({"max_error": 1.5}, "not between 0 and 1"),
        ({"budget": "much"}, "not a positive amount"),
    ],
)
def test_senseless_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        adaptzip.compress(adapter([(6, 5, 1)]), **options)


def test_nothing_to_compress_is_refused() -> None:
    with pytest.raises(RefusedError, match="no low-rank module"):
        adaptzip.compress(Adapter({}, {"head": torch.ones(3)}))


def test_progress_goes_up_to_one() -> None:
    heard: list[tuple[str, float]] = []
    adaptzip.compress(
        adapter([(20, 30, 3)] * 3), progress=lambda phase, done, total: heard.append((phase, done / total))
    )
    assert {phase for phase, _ in heard} >= {"fitting", "coding"}
    assert all(0 < share <= 1 for _, share in heard)
    assert heard[-1][1] == 1


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.adz").write_text("mine")
    with pytest.raises(adaptzip.AdaptzipError, match="exists"):
        adaptzip.compress(adapter([(6, 5, 1)]), tmp_path / "x.adz")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.adz", "mine")]


def real_adapters() -> list[Path]:
    folder = ROOT / ".." / "shared" / "material" / "adapters"
    return sorted(path.parent for path in folder.glob("*/adapter_config.json"))


@pytest.mark.slow
@pytest.mark.parametrize("path", real_adapters() or [None], ids=lambda path: path.name if path else "absent")
@pytest.mark.parametrize("options", [{}, {"budget": "20x", "extras": "int8"}, {"lossless": True}], ids=str)
def test_real_adapters(path: Path | None, options: dict[str, Any], tmp_path: Path) -> None:
    if path is None:
        pytest.skip("../shared/material is absent")
    try:
        source = adaptzip.read(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AdaptzipWarning)
            compressed = adaptzip.compress(path, tmp_path / "x.adz", **options)
    except (RefusedError, CheckFailedError) as error:
        pytest.skip(str(error))
    again = adaptzip.reconstruct(tmp_path / "x.adz")
    if compressed.lossless:
        assert all(same_bits(m.A, again.modules[name].A) for name, m in source.modules.items())
        adaptzip.export(tmp_path / "x.adz", tmp_path / "out")
        weights = path / "adapter_model.safetensors"
        if weights.exists():
            assert (tmp_path / "out" / weights.name).read_bytes() == weights.read_bytes()
    elif any(m.B.any() for m in source.modules.values()):
        assert relative_error(source, again) == pytest.approx(compressed.provenance.relative_error, rel=1e-2)


@pytest.mark.parametrize("given", [{"max_error": 1e-9}, {"budget": "30B"}])
def test_what_fails_is_not_kept_alive(given: dict[str, Any]) -> None:
    """An error leads to the frames that it passed: one that is kept there keeps all their tensors until Python looks
    for circles, which programs that run long do rarely."""
    source = adapter([(20, 16, 3)] * 2)
    seen = weakref.ref(source.modules["m.0"])
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(CheckFailedError):
            adaptzip.compress(source, to="loretta", **given)
        del source
        assert seen() is None
    finally:
        gc.enable()
