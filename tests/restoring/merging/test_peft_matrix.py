"""Kinds of LoRA by dtypes of base and file, with and without safe_merge: bit for bit what PEFT's own merge makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import transformers as tf
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from adaptzip.restoring.converting import convert
from adaptzip.restoring.merging import merge
from tests.cases.merge_cases import assert_same_tensors, bert, gpt2, llama, mixtral, tensors_of
from tests.cases.tiny_peft import randomise

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES: dict[str, Literal["bfloat16", "float16"]] = {"bf16": "bfloat16", "fp16": "float16"}
CONV1D = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
EXPERTS = {"target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}
Make = Callable[[], tf.PreTrainedModel]
KINDS: dict[str, tuple[Make, dict[str, Any]]] = {
    "linear": (llama, {"target_modules": "all-linear", "lora_alpha": 6}),
    "rslora": (llama, {"target_modules": "all-linear", "lora_alpha": 6, "use_rslora": True}),
    "patterns": (
        llama,
        {"target_modules": "all-linear", "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 9}},
    ),
    "rslora_patterns": (
        llama,
        {
            "target_modules": "all-linear",
            "use_rslora": True,
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {"v_proj": 9},
        },
    ),
    "dora": (llama, {"target_modules": "all-linear", "use_dora": True}),
    "gpt2": (gpt2, CONV1D),
    "gpt2_dora": (gpt2, {**CONV1D, "use_dora": True}),
    "lora_bias": (bert, {"target_modules": ["query", "dense"], "lora_bias": True}),
    "bias_lora_only": (bert, {"target_modules": ["query"], "bias": "lora_only", "task_type": "SEQ_CLS"}),
    "bias_all": (bert, {"target_modules": ["query"], "bias": "all", "task_type": "SEQ_CLS"}),
    "modules_to_save": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    "tokens": (llama, {"target_modules": ["q_proj"], "trainable_token_indices": [1, 5]}),
    "embeddings": (llama, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "experts": (mixtral, {"target_modules": ["q_proj"], **EXPERTS}),
}


@dataclass(frozen=True)
class Cell:
    """One configuration.

    Attributes:
        kind: the kind of LoRA, of `KINDS`.
        base, file: the dtypes of the base model's files and of the adapter's.
        safe: safe_merge.
        loading: what PEFT is told when it loads the adapter.
    """

    kind: str
    base: str
    file: str
    safe: bool = False
    loading: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        words = [self.kind, self.base, f"file_{self.file}", *(["safe"] if self.safe else []), *self.loading]
        return "-".join(words)


CELLS = [
    *(Cell("linear", base, file, safe) for base in DTYPES for file in DTYPES for safe in (False, True)),
    *(
        Cell(kind, base, "fp32", safe)
        for kind in KINDS
        if kind != "linear"
        for base in DTYPES
        for safe in (False, True)
    ),
]
LOADINGS: tuple[dict[str, Any], ...] = ({"low_cpu_mem_usage": True}, {"autocast_adapter_dtype": False})
LOADED_OTHERWISE = [
    Cell("linear", base, file, safe, loading)
    for loading in LOADINGS for base in ("bf16", "fp16") for file in ("fp32", base) for safe in (False, True)
]  # fmt: skip


class Shelf:
    """Base models and adapters on them, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = cache(self._base)
        self.adapter = cache(self._adapter)

    def _base(self, make: Make, dtype: str) -> tuple[type[Any], Path]:
        tf.set_seed(0)
        model = make().to(DTYPES[dtype])
        path = self.folder / f"{make.__name__}-{dtype}"
        model.save_pretrained(path)
        return type(model), path

    def _adapter(self, kind: str, base: str, file: str) -> Path:
        make, config = KINDS[kind]
        cls, weights = self.base(make, base)
        path = self.folder / f"{kind}-{base}-{file}"
        tf.set_seed(1)
        trained = get_peft_model(cls.from_pretrained(weights, dtype=DTYPES[base]), LoraConfig(r=4, **config))
        randomise(trained)
        trained.save_pretrained(path)
        stored = path / "adapter_model.safetensors"
        save_file({key: t.to(DTYPES[file]) for key, t in load_file(stored).items()}, stored, {"format": "pt"})
        return path

    def by_peft(self, cell: Cell, folder: Path) -> Path:
        """What PEFT merges and transformers saves, in `folder`."""
        cls, base = self.base(KINDS[cell.kind][0], cell.base)
        model = cls.from_pretrained(base, dtype=DTYPES[cell.base])
        wrapped = PeftModel.from_pretrained(model, self.adapter(cell.kind, cell.base, cell.file), **cell.loading)
        wrapped.merge_and_unload(safe_merge=cell.safe).save_pretrained(folder)
        return folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_what_peft_merges(cell: Cell, shelf: Shelf, tmp_path: Path) -> None:
    base, adapter = shelf.base(KINDS[cell.kind][0], cell.base)[1], shelf.adapter(cell.kind, cell.base, cell.file)
    merge(adapter, base, tmp_path / "ours", safe_merge=cell.safe)
    ours, before = tensors_of(tmp_path / "ours"), tensors_of(base)
    assert_same_tensors(ours, tensors_of(shelf.by_peft(cell, tmp_path / "theirs")))
    assert any(not torch.equal(tensor, before[name]) for name, tensor in ours.items())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("cell", LOADED_OTHERWISE, ids=str)
def test_what_peft_merges_of_rounded_factors(cell: Cell, shelf: Shelf, tmp_path: Path) -> None:
    """Loaded so, PEFT rounds the factors to the base's dtype; without autocast it always rounds the update as well."""
    convert(shelf.adapter(cell.kind, cell.base, cell.file), tmp_path / "rounded", dtype=NAMES[cell.base])
    rounded = tmp_path / "rounded"
    base = shelf.base(KINDS[cell.kind][0], cell.base)[1]
    safe = cell.safe or "autocast_adapter_dtype" in cell.loading
    merge(rounded, base, tmp_path / "ours", safe_merge=safe)
    merge(rounded, base, tmp_path / "other", safe_merge=not safe)
    ours, other = tensors_of(tmp_path / "ours"), tensors_of(tmp_path / "other")
    assert_same_tensors(ours, tensors_of(shelf.by_peft(cell, tmp_path / "theirs")))
    assert any(not torch.equal(tensor, other[name]) for name, tensor in ours.items())
