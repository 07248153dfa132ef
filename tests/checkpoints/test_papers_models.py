"""Whole models as AdaLoRA, IncreLoRA, VB-LoRA and LoRETTA are saved by their authors mean what the layers compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import adaptzip
from adaptzip.errors import AdaptzipError, AdaptzipWarning, CheckpointError, RefusedError
from adaptzip.restoring.reading import read
from tests.cases import state_dicts
from tests.cases.state_dicts import QUERY, SHAPES, UP, Change, drawn, saved

CONFIG = {"lora_alpha": 6, "lora_r": 5, "lora_type": "svd", "architectures": ["BertForSequenceClassification"]}


def of_adalora(rank: int = 5) -> dict[str, Tensor]:
    """Of five ranks three are left in one module, and none in the other."""
    found: dict[str, Tensor] = {}
    for name, (out, width) in SHAPES.items():
        parts = drawn(len(name), lora_A=(rank, width), lora_E=(rank, 1), lora_B=(out, rank))
        parts["lora_E"][[1, 4] if name == QUERY else slice(None)] = 0
        found |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
        found[f"{name}.ranknum"] = torch.tensor([float(rank)])
    return found


def by_svd_linear(given: Mapping[str, Tensor], name: str) -> Tensor:
    """The update as SVDLinear computes it: x (A * E)^T B^T of the identity, by what scale and ranknum say."""
    A, E, B = (given[f"{name}.lora_{part}"] for part in "AEB")
    return (torch.eye(A.shape[1]) @ (A * E).T @ B.T).T * (6 / (given[f"{name}.ranknum"] + 1e-5))


def of_increlora(count: int = 3, reserve: float = 0.0) -> dict[str, Tensor]:
    """So many blocks of rank 1, and a reserve."""
    found: dict[str, Tensor] = {}
    for name, (out, width) in SHAPES.items():
        for i in range(count + 1):
            parts = drawn(len(name) + i, lora_A=(1, width), lora_E=(1, 1), lora_B=(out, 1))
            if i == count:
                parts["lora_E"].fill_(reserve)
            found |= {f"{name}.{part}.{i}": tensor for part, tensor in parts.items()}
        found[f"{name}.ranknum"] = torch.tensor([float(count)])
    return found


def by_lists(given: Mapping[str, Tensor], name: str, count: int = 4) -> Tensor:
    """The update as IncreLoRA computes it: the lists put together, and divided by ranknum."""
    A, E, B = (torch.cat([given[f"{name}.lora_{p}.{i}"] for i in range(count)], dim=int(p == "B")) for p in "AEB")
    return (B @ (A * E)) * 6 / (given[f"{name}.ranknum"] + 1e-5)


LENGTH, VECTORS, RANK, TOPK = 8, 10, 3, 2


def of_vblora() -> dict[str, Tensor]:
    bank = drawn(7, bank=(VECTORS, LENGTH))["bank"]
    found = {"bert.vector_bank": bank}
    for name, (out, width) in SHAPES.items():
        shapes = {"logits_A": (width // LENGTH, RANK, VECTORS), "logits_B": (out // LENGTH, RANK, VECTORS)}
        found |= {f"{name}.{part}": tensor for part, tensor in drawn(len(name), **shapes).items()}
        found[f"{name}.vector_bank"] = bank
    return found


def by_mixtures(given: Mapping[str, Tensor], name: str) -> Tensor:
    """The update, number by number of each rank: pieces of weights times vectors, one after another."""
    rows = {}
    for side in "AB":
        logits = given[f"{name}.logits_{side}"]
        rows[side] = torch.zeros(RANK, logits.shape[0] * LENGTH)
        for piece in range(logits.shape[0]):
            for rank in range(RANK):
                chosen = logits[piece, rank].argsort(descending=True)[:TOPK]
                weights = logits[piece, rank, chosen].exp() / logits[piece, rank, chosen].exp().sum()
                rows[side][rank, piece * LENGTH : (piece + 1) * LENGTH] = weights @ given["bert.vector_bank"][chosen]
    return rows["B"].T @ rows["A"]


def test_adalora_merges_to_what_its_layers_compute(tmp_path: Path) -> None:
    given = of_adalora()
    run = saved(tmp_path / "run", state_dicts.trained_model(tmp_path, given), CONFIG)
    found = read(run, base=tmp_path / "base")
    assert found.meta.dialect == "adalora"
    assert (found.modules[QUERY].rank, found.modules[UP].rank) == (3, 1)
    state_dicts.check_merged(tmp_path, run, {name: by_svd_linear(given, name) for name in SHAPES})


def test_adalora_tells_its_rank_without_ranknum(tmp_path: Path) -> None:
    """As lora_state_dict() leaves it out."""
    given = of_adalora()
    alone = {key: t for key, t in given.items() if ".lora_" in key}
    found = read(saved(tmp_path / "run", alone, CONFIG, name="lora_state_dict.pt"))
    for name in SHAPES:
        torch.testing.assert_close(found.modules[name].delta(), by_svd_linear(given, name))


@pytest.mark.parametrize("reserve", [0.0, 1e-5])
def test_increlora_merges_to_what_its_lists_compute(reserve: float, tmp_path: Path) -> None:
    given = of_increlora(reserve=reserve)
    run = saved(tmp_path / "run", state_dicts.trained_model(tmp_path, given), CONFIG)
    found = read(run, base=tmp_path / "base")
    assert found.meta.dialect == "increlora"
    assert found.modules[QUERY].rank == (3 if reserve == 0 else 4)
    state_dicts.check_merged(tmp_path, run, {name: by_lists(given, name) for name in SHAPES})


@pytest.mark.parametrize("alpha", [0, -6])
def test_an_alpha_that_is_not_positive_is_the_rank_that_training_began_with(alpha: int, tmp_path: Path) -> None:
    """Of AdaLoRA that is ranknum, and of IncreLoRA the first block's."""
    for given, made, start in ((of_adalora(), by_svd_linear, 5), (of_increlora(), by_lists, 1)):
        found = read(saved(tmp_path / "run", given), alpha=alpha)
        for name in SHAPES:
            torch.testing.assert_close(found.modules[name].delta(), made(given, name) * start / 6)


def test_vblora_merges_to_its_mixtures(tmp_path: Path) -> None:
    given = of_vblora()
    run = saved(tmp_path / "run", state_dicts.trained_model(tmp_path, given), {"topk": TOPK, "rank": RANK})
    assert read(run, base=tmp_path / "base").meta.dialect == "vblora-nlu"
    state_dicts.check_merged(tmp_path, run, {name: by_mixtures(given, name) for name in SHAPES})


def of_loretta() -> dict[str, Tensor]:
    """Trains of (in, 4) and (4, out), in modes that end where no row does."""
    found = {}
    for name, (out, width) in SHAPES.items():
        for side, numbers in (("A", width * 4), ("B", out * 4)):
            parts = drawn(len(name + side), a=(1, 8, 3), b=(3, numbers // 8, 1))
            for i, core in enumerate(parts.values()):
                found[f"{name}.lora_{side}.layer.tensor.factors.{i}"] = core
    return found


def by_trains(given: Mapping[str, Tensor], name: str) -> Tensor:
    out, width = SHAPES[name]
    shapes = {"A": (width, 4), "B": (4, out)}
    A, B = (
        torch.einsum("iaj,jbk->ab", *(given[f"{name}.lora_{side}.layer.tensor.factors.{i}"] for i in range(2))).reshape(
            shapes[side]
        )
        for side in "AB"
    )
    return 6 / 4 * (A @ B).T


def test_a_trainers_loretta_tells_its_bottleneck_by_its_weights(tmp_path: Path) -> None:
    given = of_loretta()
    model = state_dicts.trained_model(tmp_path, given)
    run = saved(tmp_path / "run", {"base_model.model." + key: tensor for key, tensor in model.items()})
    state_dicts.check_merged(tmp_path, run, {name: by_trains(given, name) for name in SHAPES}, alpha=6)
    saved(run, {"base_model.model." + key: tensor for key, tensor in given.items()})
    found = read(run, alpha=6, base=tmp_path / "base")
    assert {module.rank for module in found.modules.values()} == {4}


MADE: Mapping[str, Callable[[], dict[str, Tensor]]] = {
    "adalora": of_adalora,
    "increlora": of_increlora,
    "vblora": of_vblora,
}
TOLD: Mapping[str, Any] = {"adalora": CONFIG, "increlora": CONFIG, "vblora": {"topk": TOPK}}


@pytest.mark.parametrize("kind", MADE)
def test_it_goes_through_a_file_into_a_plain_lora(kind: str, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", state_dicts.trained_model(tmp_path, MADE[kind]()), TOLD[kind])
    adaptzip.compress(run, tmp_path / "a.adz", lossless=True, base=tmp_path / "base")
    adaptzip.export(tmp_path / "a.adz", tmp_path / "plain", as_="peft")
    before, after = read(run, base=tmp_path / "base"), read(tmp_path / "plain")
    assert after.extras.keys() == before.extras.keys()
    for name, module in before.modules.items():
        torch.testing.assert_close(after.modules[name].delta(), module.delta())


@pytest.mark.parametrize("kind", MADE)
def test_a_whole_model_needs_its_base(kind: str, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", state_dicts.trained_model(tmp_path, MADE[kind]()), TOLD[kind])
    with pytest.raises(RefusedError, match="its base model is needed to tell what was trained") as caught:
        read(run)
    assert caught.value.hint == "add `base=DIR`"


def test_pefts_configuration_beside_it_makes_it_pefts(tmp_path: Path) -> None:
    """PEFT's AdaLoRA divides by the rank that training began with, which its configuration tells."""
    alone = {key: t for key, t in of_adalora().items() if ".lora_" in key}
    folder = saved(tmp_path / "a", alone, name="adapter_model.bin")
    (folder / "adapter_config.json").write_text('{"peft_type": "ADALORA", "init_r": 12, "lora_alpha": 6}')
    refused = pytest.raises(CheckpointError, match="has rank 5, but adapter_config.json leaves it 12")
    with pytest.warns(AdaptzipWarning, match="keys are not as PEFT saves them"), refused:
        read(folder)


def nan(key: str) -> Change:
    return lambda tensors: tensors.update({key: tensors[key] * torch.nan})


def put(key: str, *shape: int) -> Change:
    return lambda tensors: tensors.update({key: torch.ones(shape)})


def drop(key: str) -> Change:
    return lambda tensors: tensors.pop(key)


@pytest.mark.parametrize(
    ("kind", "change", "error", "message"),
    [
        ("adalora", drop(f"{QUERY}.lora_E"), CheckpointError, "but no lora_E"),
        ("adalora", drop(f"{QUERY}.lora_A"), CheckpointError, "but no lora_A"),
        ("adalora", put(f"{QUERY}.lora_E", 4, 1), CheckpointError, r"lora_E \(rank, 1\)"),
        ("adalora", put(f"{QUERY}.lora_B", 12, 5), CheckpointError, r"of a weight \[16, 16\]"),
        ("adalora", nan(f"{QUERY}.lora_A"), CheckpointError, "lora_A holds NaN"),
        ("adalora", nan(f"{QUERY}.ranknum"), CheckpointError, "ranknum holds NaN"),
        ("adalora", put(f"{QUERY}.ranknum", 2), CheckpointError, "expected one number"),
        ("adalora", put(f"{QUERY}.lora_D", 2), CheckpointError, "lora_D has no meaning"),
        ("increlora", drop(f"{QUERY}.ranknum"), RefusedError, "has no ranknum.*its 4 blocks do not tell"),
        ("increlora", drop(f"{QUERY}.lora_E.1"), CheckpointError, "blocks 0, 2, 3 of lora_E, expected 0 to 3"),
        ("increlora", drop(f"{QUERY}.lora_B.3"), CheckpointError, "blocks 0, 1, 2 of lora_B, expected 0 to 3"),
        ("increlora", put(f"{QUERY}.lora_E.1", 2, 1), CheckpointError, r"expected \(k, in\), \(k, 1\)"),
        ("increlora", put(f"{QUERY}.lora_A.1", 1, 15), CheckpointError, "the widths of its first block"),
        ("increlora", nan(f"{QUERY}.lora_E.3"), CheckpointError, "lora_E.3 holds NaN"),
        (
            "vblora",
            drop("bert.vector_bank"),
            CheckpointError,
            "has banks of none, expected one vector_bank of the model",
        ),
        ("vblora", drop(f"{QUERY}.vector_bank"), CheckpointError, "but no vector_bank"),
        ("vblora", put(f"{QUERY}.vector_bank", 10, 8), CheckpointError, "is another than bert.vector_bank"),
        ("vblora", drop(f"{QUERY}.logits_A"), CheckpointError, "but no logits_A"),
        ("vblora", put(f"{QUERY}.logits_A", 2, 3, 9), CheckpointError, "a logit for each vector of the bank"),
        ("vblora", put(f"{QUERY}.logits_A", 3, 3, 10), CheckpointError, r"of a weight \[16, 16\]"),
        ("vblora", nan(f"{QUERY}.logits_B"), CheckpointError, "logits_B holds NaN"),
    ],
)
def test_what_is_wrong_is_named(
    kind: str, change: Change, error: type[AdaptzipError], message: str, tmp_path: Path
) -> None:
    given = MADE[kind]()
    change(given)
    state_dicts.base(tmp_path)
    with pytest.raises(error, match=message):
        read(saved(tmp_path / "run", given, TOLD[kind]), base=tmp_path / "base")


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("adalora", None, "no configuration beside it says lora_alpha"),
        ("increlora", {"lora_alpha": "many"}, "lora_alpha is 'many', expected a finite number"),
        ("vblora", {"rank": 3}, "no configuration beside it says topk"),
        ("vblora", {"topk": 11}, "topk is 11, but the bank has 10 vectors"),
        ("vblora", {"topk": 0}, "topk is 0, expected a whole number of at least 1"),
    ],
)
def test_what_the_configuration_lacks_is_named(
    kind: str, config: Mapping[str, Any] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(saved(tmp_path / "run", MADE[kind](), config))


GENUINE: Mapping[str, Mapping[str, Any]] = {
    "adalora-loralib-deberta/run": {},
    "increlora-deberta/run": {},
    "increlora-deberta-midrun/run": {},
    "loralib-gpt2-mergedlinear/run/model.1000.pt": {"alpha": 32},
    "loralib-gpt2-mergedlinear/run/model.500.pt": {"alpha": 32},
    "loretta-rep-roberta-cls-trainer/run": {"alpha": 16},
    "vblora-nlu-roberta/run": {},
}


@pytest.mark.filterwarnings("ignore:.*taken for the first and the third:adaptzip.errors.AdaptzipWarning")
@pytest.mark.filterwarnings("ignore:.*which may hold something that was trained:adaptzip.errors.AdaptzipWarning")
@pytest.mark.parametrize("path", GENUINE)
def test_genuine_ones_are_what_their_authors_code_computes(path: str, material: Path) -> None:
    folder = material / "papers" / path.partition("/")[0]
    found = read(material / "papers" / path, base=folder / "base", **GENUINE[path])
    wanted = load_file(folder / "expected.safetensors")
    whole = {name.removeprefix("tensor:"): t for name, t in wanted.items() if name.startswith("tensor:")}
    assert found.extras.keys() == {f"base_model.model.{name}" for name in whole}
    assert found.modules.keys() == {name for name in wanted if not name.startswith("tensor:")}
    for name, module in found.modules.items():
        error = (module.weight_delta() - wanted[name]).norm()
        assert error <= 1e-6 * wanted[name].norm(), name
    for name, tensor in whole.items():
        torch.testing.assert_close(found.extras[f"base_model.model.{name}"], tensor, atol=1e-6, rtol=1e-6)
