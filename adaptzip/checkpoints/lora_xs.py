"""The layout of the LoRA-XS and LoRA-SB repositories: a PEFT folder with a core R between the frozen A and B.

The update is alpha / r * B R A (arXiv 2405.17604 and 2411.19557). All three are in the file: A = Sigma V^T and B = U
of the base weight for LoRA-XS, A = V^T and B = U for LoRA-SB. PEFT itself would apply B A and leave R out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Files, NativeWriter, Reader, Signature, WriteOptions
from adaptzip.checkpoints._config import CONFIG_NAME, WEIGHT_NAMES
from adaptzip.checkpoints._effects import loaded_key
from adaptzip.checkpoints._keys import PREFIX, TOKENS
from adaptzip.checkpoints._native import Native, NativeModule
from adaptzip.checkpoints._rescaling import pad
from adaptzip.checkpoints.peft.describe import build_config
from adaptzip.checkpoints.peft.reader import read as read_peft
from adaptzip.checkpoints.peft.targeting import exact_targets, left_out
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import PLAIN
from adaptzip.errors import CheckpointError, RefusedError
from adaptzip.files.tensors import build_header, pending, write_tensors

RECONSTRUCTION_NAME = "reconstr_config.json"
_MARK = "lora_latent_mapping"
SUFFIXES = (f".default_{_MARK}.weight", f"_{_MARK}.weight")
"""How the key of a core ends, as PEFT 0.18 and newer saves it, and as older ones did, which strip ".default".

The repositories' own scripts put ".default" before "_lora_latent", so that they find cores of the second form alone.
"""
_WRITTEN = SUFFIXES[1]
_FIELDS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode",
    "init_lora_weights", "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_dropout", "megatron_config", "megatron_core", "modules_to_save", "peft_type", "r", "rank_pattern", "revision",
    "target_modules", "task_type", "use_dora", "use_rslora",
}  # fmt: skip
"""What the LoraConfig of the repositories' PEFT, 0.10.0 and 0.13.2, knows; it fails at any other field."""

_BASIS_U = "basis.U"


class _LoraXs(Reader, NativeWriter):
    """The dialect `lora-xs`."""

    name = "lora-xs"
    title = "LoRA-XS"
    judged_by = "the authors' saved updates"
    lacks = "modules that are no linear layer"
    files = Files(WEIGHT_NAMES, CONFIG_NAME, (CONFIG_NAME, WEIGHT_NAMES[0], RECONSTRUCTION_NAME))
    signature = (Signature(_MARK, "a LoRA-XS"),)
    takes = ("lora-xs", "lora-sb")

    def read(self, source: Checkpoint) -> Adapter:
        """A stays as it is; R is folded into B in float64, rounded once to float32."""
        keys = _core_keys(source)
        rest = {key: tensor for key, tensor in source.tensors.items() if key not in keys.values()}
        plain = read_peft(replace(source, tensors=rest, header=None))
        unknown = sorted(keys.keys() - plain.modules.keys())
        if unknown:
            raise CheckpointError(f"{source.weights}: {keys[unknown[0]]} has no lora_A and lora_B beside it")
        modules = {name: _folded(source, name, factors, keys) for name, factors in plain.modules.items()}
        return replace(plain, modules=modules, meta=replace(plain.meta, dialect=self.name, config_text=None))

    def write_native(self, native: Native, folder: Path, options: WriteOptions) -> None:
        """Write A = V^T, R and B = U, all of one rank, with alpha equal to it."""
        _refuse_token_rows(native.adapter)
        rank = max([1, *(len(module.A) for module in native.modules.values())])
        modules, cores = {}, {}
        for name, factors in native.adapter.modules.items():
            _check_kind(name, factors)
            found = native.modules.get(name)
            modules[name], core = _triple(factors, found)
            modules[name] = pad(modules[name], rank)
            missing = rank - len(core)
            cores[name] = torch.nn.functional.pad(core, (0, missing, 0, missing))
        adapter = replace(native.adapter, modules=modules)
        tensors = {loaded_key(key, modules): pending(tensor) for key, tensor in adapter.extras.items()}
        for name, factors in modules.items():
            tensors[f"{PREFIX}{name}.lora_A.weight"] = pending(factors.A, options.dtype)
            tensors[f"{PREFIX}{name}.lora_B.weight"] = pending(factors.B, options.dtype)
            tensors[f"{PREFIX}{name}{_WRITTEN}"] = pending(cores[name], options.dtype)
        with (folder / WEIGHT_NAMES[0]).open("wb") as handle:
            write_tensors(handle, tensors, build_header(tensors, {"format": "pt"}))
        _write_json(folder / CONFIG_NAME, _config(adapter))
        _write_json(folder / RECONSTRUCTION_NAME, _reconstruction(rank))

    def overlooked(self, adapter: Adapter) -> tuple[str, ...]:
        return left_out(adapter)


def _core_keys(source: Checkpoint) -> dict[str, str]:
    """The key of each core by module name.

    Raises:
        CheckpointError: for a key of neither spelling, or two for one module.
    """
    found: dict[str, str] = {}
    for key in source.tensors:
        if _MARK not in key:
            continue
        name = next((key[len(PREFIX) : -len(suffix)] for suffix in SUFFIXES if key.endswith(suffix)), "")
        if not key.startswith(PREFIX) or not name:
            raise CheckpointError(
                f"{source.weights}: the key {key} has no meaning in a LoRA-XS file",
                hint=f"expected {PREFIX}<module>{SUFFIXES[0]} or {PREFIX}<module>{SUFFIXES[1]}",
            )
        if name in found:
            raise CheckpointError(f"{source.weights}: the keys {found[name]} and {key} mean the same tensor")
        found[name] = key
    return found


def _folded(source: Checkpoint, name: str, factors: LoraFactors, keys: Mapping[str, str]) -> LoraFactors:
    if name not in keys:
        raise CheckpointError(
            f"{source.weights}: module {name} has lora_A and lora_B, but no core between them",
            hint=f"expected {PREFIX}{name}{_WRITTEN}; save the adapter again",
        )
    core: Tensor = source.tensors[keys[name]]
    rank = factors.rank
    if tuple(core.shape) != (rank, rank) or not core.is_floating_point():
        raise CheckpointError(f"{source.weights}: {keys[name]} is {list(core.shape)}, expected [{rank}, {rank}]")
    if not bool(torch.isfinite(core).all()):
        raise CheckpointError(
            f"{source.weights}: tensor {keys[name]} holds NaN or infinity",
            hint="the training diverged; use an earlier save",
        )
    return replace(factors, B=(factors.B.double() @ core.double()).float())


def _config(adapter: Adapter) -> dict[str, object]:
    """PEFT's configuration in the fields that the repositories' PEFT knows.

    It knows no exclude_modules. Where the source had some, the modules are named in full.
    """
    config = build_config(adapter)
    if config.get("exclude_modules"):
        targets = {"target_modules": exact_targets(adapter.modules)}
        config |= dict.fromkeys(("layers_pattern", "layers_to_transform")) | targets
    return {name: value for name, value in config.items() if name in _FIELDS}


def _refuse_token_rows(adapter: Adapter) -> None:
    rows = next((key for key in adapter.extras if key.endswith(TOKENS)), None)
    if rows is not None:
        raise RefusedError(
            f"{rows} holds rows of trained tokens, which the PEFT of LoRA-XS does not know",
            hint="export `as_='peft'` instead",
        )


def _check_kind(name: str, factors: LoraFactors) -> None:
    if factors.layout not in PLAIN or factors.magnitude is not None or factors.bias is not None:
        what = factors.layout if factors.magnitude is None and factors.bias is None else "a DoRA magnitude or a bias"
        raise RefusedError(
            f"module {name} has {what}, which LoRA-XS does not know: it changes linear layers alone",
            hint="export `as_='peft'` instead",
        )


def _triple(factors: LoraFactors, module: NativeModule | None) -> tuple[LoraFactors, Tensor]:
    """The frozen A and B of a module with scale 1, and its core by least squares: B' = U R; nothing for no update."""
    if module is None or _BASIS_U not in module.tensors:
        return factors, torch.zeros(factors.rank, factors.rank)
    U = module.tensors[_BASIS_U][:, : len(module.A)].double()
    gram = U.T @ U
    # A basis whose shorter side ends in zero columns has nothing to solve for there.
    gram += torch.diag((gram.diagonal() == 0).double())
    core = torch.linalg.solve(gram, U.T @ module.B.double()).float()
    return replace(factors, A=module.A, B=U.float(), scaling=1.0), core


def _reconstruction(rank: int) -> dict[str, object]:
    """The repositories' own configuration; A and B in the file replace what it would compute."""
    return {
        "half_init_dec": False,
        "r_squared": True,
        "reconstr_mode": "separated",
        "reconstruction_type": "svd",
        "replacement_module_random_init": False,
        "svd": {"n_iter": 10, "random_state": 42, "rank": rank},
    }


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True), encoding="utf-8")


DIALECT = _LoraXs()
