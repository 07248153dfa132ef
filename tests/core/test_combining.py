"""Several adapters as one, against PEFT's `add_weighted_adapter`, and against sums of updates."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import merge_utils
from torch import Tensor

import adaptzip
from adaptzip.checkpoints import resolved
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.combinations import COMBINATIONS
from adaptzip.core.combining import Weighted, combined
from adaptzip.core.task_arithmetic import Rule
from adaptzip.errors import RefusedError, UsageError
from tests.cases.live_models import llama
from tests.cases.tiny_peft import randomise

WEIGHTS = (0.7, -0.3, 1.9)
NAMES = ("one", "two", "three")
ONE_RANK = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
CHANCE = tuple(name for name in COMBINATIONS if name.startswith("dare"))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> tuple[PeftModel, tuple[Path, ...]]:
    """Three adapters of rank 4 on one model, of which the second has modules of its own and lacks others."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("live")
    targets = (["q_proj", "down_proj", "embed_tokens"], ["q_proj", "v_proj"], ["q_proj", "down_proj", "v_proj"])
    model: Any = None
    for name, modules in zip(NAMES, targets, strict=True):
        config = LoraConfig(r=4, lora_alpha=6, target_modules=modules)
        if model is None:
            model = get_peft_model(llama(tie_word_embeddings=False), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    randomise(model)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return model, tuple(folder / name for name in NAMES)


def parts(folders: tuple[Path, ...]) -> list[Weighted]:
    return [Weighted(adaptzip.read(f), w, n) for f, w, n in zip(folders, WEIGHTS, NAMES, strict=True)]


def of_peft(model: PeftModel, method: str, **more: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors of PEFT's combination, and what they mean, by module."""
    name = f"made_{method}_{len(model.peft_config)}"
    model.add_weighted_adapter(list(NAMES), list(WEIGHTS), name, combination_type=method, **more)
    found = {}
    for path, layer in model.base_model.model.named_modules():
        if name in getattr(layer, "lora_A", ()):
            found[path] = layer.lora_A[name].weight.data, layer.lora_B[name].weight.data
        elif name in getattr(layer, "lora_embedding_A", ()):
            found[path] = layer.lora_embedding_A[name].data, layer.lora_embedding_B[name].data
    return found


@pytest.mark.parametrize("method", [name for name in COMBINATIONS if name not in CHANCE])
def test_factors_are_pefts(method: str, live: tuple[PeftModel, tuple[Path, ...]]) -> None:
    model, folders = live
    how: dict[str, Any] = {} if method in ("cat", "svd", "linear") else {"density": 0.6}
    made = combined(parts(folders), method, **how)  # type: ignore[arg-type]
    theirs = of_peft(model, method, **how)
    assert made.modules.keys() == theirs.keys()
    for name, (A, B) in theirs.items():
        ours = made.modules[name]
        assert torch.allclose(ours.delta(), B @ A, rtol=1e-4, atol=1e-5), name
        if method in (*ONE_RANK, "cat"):
            rank = ours.rank  # PEFT leaves zeros where an adapter lacks the module.
            assert torch.equal(ours.A, A[:rank]), name
            assert torch.equal(ours.B, B[:, :rank]), name
            assert not A[rank:].any()
            assert not B[:, rank:].any()


@pytest.mark.parametrize("majority", ["total", "frequency"])
@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "ties", "magnitude_prune"])
@pytest.mark.parametrize("density", [0.0, 0.3, 0.99])
def test_rules_are_pefts_number_for_number(method: str, majority: Any, density: float) -> None:
    tensors, weights = [torch.randn(7, 9) for _ in range(3)], torch.tensor(WEIGHTS)
    rule = Rule("random" if "dare" in method else "largest", method.endswith("ties"), density, majority)
    more = {"majority_sign_method": majority} if method.endswith("ties") else {}
    torch.manual_seed(3)
    theirs = getattr(merge_utils, method)(tensors, weights, density, **more)
    if density or "dare" not in method:  # PEFT divides by a density of zero.
        assert torch.equal(rule.apply(tensors, WEIGHTS, torch.Generator().manual_seed(3)), theirs)
    else:
        assert not rule.apply(tensors, WEIGHTS, None).any()
        assert theirs.isnan().all()


def test_a_density_of_one_prunes_nothing() -> None:
    tensors = [torch.randn(4, 5) for _ in range(2)]
    assert torch.equal(Rule("random", density=1.0).apply(tensors, (1, 2), None), tensors[0] + tensors[1] * 2)


@pytest.mark.parametrize("method", CHANCE)
def test_chance_comes_of_the_seed(method: Any, live: tuple[PeftModel, tuple[Path, ...]]) -> None:
    first, second, third = (combined(parts(live[1]), method, density=0.5, seed=seed) for seed in (1, 1, 2))
    same = [torch.equal(first.modules[n].A, second.modules[n].A) for n in first.modules]
    other = [torch.equal(first.modules[n].A, third.modules[n].A) for n in first.modules]
    assert all(same)
    assert not all(other)


@pytest.mark.parametrize("method", ["cat", "svd"])
def test_the_update_is_the_weighted_sum(method: Any, live: tuple[PeftModel, tuple[Path, ...]]) -> None:
    given = parts(live[1])
    made = combined(given, method, rank=12 if method == "svd" else None)
    for name, factors in made.modules.items():
        wanted = sum(p.adapter.modules[name].delta() * p.weight for p in given if name in p.adapter.modules)
        assert torch.allclose(factors.delta(), wanted, atol=1e-5)  # type: ignore[arg-type]


def test_ranks_may_differ_where_factors_are_not_mixed() -> None:
    a, b = (Weighted(adapter(rank=r), name=f"rank {r}") for r in (2, 3))
    assert combined([a, b]).modules["m"].rank == 5
    assert combined([a, b], "svd").modules["m"].rank == 3
    assert combined([a, b], "ties_svd", density=0.5, rank=1).modules["m"].rank == 1
    with pytest.raises(RefusedError, match=r"module m: the adapters' ranks differ: rank 2 has 2, rank 3 has 3"):
        combined([a, b], "linear")


def test_biases_of_modules_are_summed() -> None:
    a, b = adapter(bias=torch.ones(6)), adapter()
    made = combined([Weighted(a, 0.5), Weighted(b, 3), Weighted(a, 2)])
    assert made.modules["m"].bias is not None
    assert torch.allclose(made.modules["m"].bias, torch.full((6,), 2.5 * a.modules["m"].scaling))


def test_half_precision_is_widened() -> None:
    made = combined([Weighted(adapter(dtype=torch.bfloat16))])
    assert (made.modules["m"].A.dtype, made.modules["m"].scaling) == (torch.float32, 1.0)


@pytest.mark.parametrize("width", [{"layout": "transposed"}, {"width": 7}])
def test_updates_of_other_weights_are_refused(width: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match=r"module m is \[6, 5\] linear in a, but"):
        combined([Weighted(adapter(), name="a"), Weighted(adapter(**width), name="b")])


def test_magnitudes_are_refused() -> None:
    with pytest.raises(RefusedError, match="b: module m has a DoRA magnitude"):
        combined([Weighted(adapter(), name="a"), Weighted(adapter(magnitude=torch.ones(6)), name="b")])


def test_heads_are_kept_where_they_agree() -> None:
    head, other = torch.ones(2, 6), torch.zeros(2, 6)
    key = "base_model.model.classifier.weight"
    a, same, bare, differs = (with_extra(key, t) for t in (head, head.clone(), None, other))
    assert torch.equal(combined([Weighted(bare), Weighted(a), Weighted(same)]).extras[key], head)
    made = combined([Weighted(bare), Weighted(a)])
    assert made.resolved.extras[key].tensor == "classifier.weight"
    with pytest.raises(RefusedError, match=f"a and b each have their own {key}"):
        combined([Weighted(a, name="a"), Weighted(differs, name="b")])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"method": "mean"}, "no way to combine called 'mean'"),
        ({"method": "ties"}, "needs a density"),
        ({"method": "linear", "density": 0.5}, "is for methods that prune"),
        ({"method": "cat", "rank": 3}, "cat tells the rank by itself"),
        ({"method": "svd", "rank": 0}, "a rank of 0"),
        ({"method": "ties", "density": 1.5}, "a density of 1.5"),
        ({"method": "cat", "density": 0.5}, "is for methods that prune"),
    ],
)
def test_what_does_not_belong_together(how: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        combined([Weighted(adapter()), Weighted(adapter())], **how)


def test_nothing_and_no_number_are_no_combination() -> None:
    with pytest.raises(UsageError, match="nothing to combine"):
        combined([])
    with pytest.raises(UsageError, match="x has the weight nan"):
        combined([Weighted(adapter(), float("nan"), "x")])


_seeds = itertools.count()


def adapter(
    rank: int = 2, width: int = 5, dtype: torch.dtype = torch.float32, layout: Any = "linear", **more: Any
) -> Adapter:
    generator = torch.Generator().manual_seed(next(_seeds))
    A, B = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((rank, width), (6, rank)))
    return resolved(Adapter({"m": LoraFactors(A, B, 1.5, layout=layout, **more)}))


def with_extra(key: str, tensor: Tensor | None) -> Adapter:
    made = adapter()
    return resolved(replace(made, extras={} if tensor is None else {key: tensor}, effects=None))
