"""LoRETTA_rep: a LoRA whose A and B are tensor trains, adapter_config.json beside adapter_model.bin.

Yang, Zhou, Wong and Zhang 2024, arXiv:2402.11417. The file holds the cores (r_{i-1}, k_i, r_i) of either factor under
`base_model.model.<module>.lora_A.layer.tensor.factors.<i>`. Contracted, A's cores are a matrix (in, bottleneck) and
B's one (bottleneck, out), both row-major with modes that need not end where rows do; the update adds
lora_alpha / bottleneck times x A B. Neither widths nor scale are in the file: the configuration gives lora_alpha and
the bottleneck, as `r` or as `bottleneck_size`. A trainer leaves the whole model without one: the shapes of its weights,
or of the base's, tell the bottleneck then, and --alpha gives lora_alpha.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite, prod
from types import MappingProxyType

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Files, Reader, Signature
from adaptzip.checkpoints._config import CONFIG_NAME, WEIGHT_NAMES
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._parts import base_name, linear_layout, needed_base
from adaptzip.checkpoints._state_dict import alpha_of, weight_shapes
from adaptzip.checkpoints._trained import trained
from adaptzip.checkpoints._trained_heads import with_whole_layers
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError, RefusedError

_CORE = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.layer\.tensor\.factors\.(\d{1,4})")
_TENSORISED = ".tensor.factors."
_ADAPTERS = (".adapter_down.", ".adapter_up.")
_NUMBERS = 2**28
"""More numbers than a factor has: what damaged shapes must not make us compute."""
_AGAIN = "save the adapter again"

Cores = dict[str, dict[int, str]]
"""The keys of the cores by factor, "A" or "B", and position."""


class _Loretta(Reader):
    """The dialect `loretta`."""

    name = "loretta"
    title = "LoRETTA"
    judged_by = "the authors' saved updates"
    lacks = "modules that are no linear layer"
    files = Files(WEIGHT_NAMES, CONFIG_NAME)
    signature = (Signature(r"^base_model\.model\..*\.tensor\.factors\.\d", "a LoRETTA"),)

    def sniff(self, source: Checkpoint) -> float:
        """Surer than PEFT, whose peft_type it shares, wherever there is a tensorised layer."""
        tensorised = any(_TENSORISED in key for key in source.tensors)
        return 0.97 if tensorised or any(_of_adapter(key) for key in source.tensors) else 0.0

    def read(self, source: Checkpoint) -> Adapter:
        source = replace(source, tensors=with_whole_layers(source.tensors, source.weights))
        modules, extras = _classify(source)
        others = {key.removeprefix(PREFIX): key for key in extras}
        sizes, alpha = _settings(source, modules, others)
        layout = linear_layout(source.config or {})
        found = {}
        for name, cores in sorted(modules.items()):
            A = _factor(source, name, "A", cores.get("A", {}), sizes[name]).reshape(-1, sizes[name]).T
            B = _factor(source, name, "B", cores.get("B", {}), sizes[name]).reshape(sizes[name], -1).T
            found[name] = LoraFactors(A.contiguous(), B.contiguous(), alpha / sizes[name], layout)
        beside = trained(source, others, found)
        config = source.config or {"modules_to_save": list(beside.heads) or None, "peft_type": "LORA"}
        meta = Meta(self.name, MappingProxyType(dict(config)), base_name(config))
        return Adapter(found, beside.extras, meta)


def _of_adapter(key: str) -> bool:
    return key.startswith(PREFIX) and any(part in key for part in _ADAPTERS)


def _classify(source: Checkpoint) -> tuple[dict[str, Cores], list[str]]:
    """The cores' keys by module, and the keys that belong to no factor.

    Raises:
        RefusedError: for layers that are no low-rank update, by name.
        CheckpointError: for a key without meaning.
    """
    modules: dict[str, Cores] = {}
    extras: list[str] = []
    plain = None
    for key in source.tensors:
        found = _CORE.fullmatch(key)
        if found is not None:
            modules.setdefault(found[1], {}).setdefault(found[2], {})[int(found[3])] = key
        elif _of_adapter(key):
            raise RefusedError(
                f"{source.weights}: {key} belongs to LoRETTA_adp: adapters with a non-linear function inside, which "
                "are no change of weights",
                hint="`adaptzip eval` runs them, and `adaptzip compress --lossless` keeps them as they are",
            )
        elif _TENSORISED in key:
            raise RefusedError(
                f"{source.weights}: {key} belongs to LoRETTA, but to a tensorised layer that is no LoRA factor",
                hint="expected base_model.model.<module>.lora_A.layer.tensor.factors.<i> and lora_B",
            )
        elif key.startswith(PREFIX) and ".lora_" not in key:
            extras.append(key)
        else:
            plain = plain or key
    if plain is not None:
        core = next((key for cores in modules.values() for keys in cores.values() for key in keys.values()), "")
        raise RefusedError(
            f"{source.weights}: {core} belongs to LoRETTA, but {plain} to something else",
            hint="save the adapters into one folder each",
        )
    return modules, extras


def _settings(
    source: Checkpoint, modules: Mapping[str, Cores], others: Mapping[str, str]
) -> tuple[Mapping[str, int], float]:
    """The bottleneck of each module, and lora_alpha."""
    config = source.config
    if config is None:
        shapes = weight_shapes(source, modules, others)
        given = alpha_of(source, {})
        return {name: _told(source, name, cores, shapes[name]) for name, cores in modules.items()}, given
    name = "r" if config.get("bottleneck_size") is None else "bottleneck_size"
    bottleneck, alpha = config.get(name), config.get("lora_alpha")
    if type(bottleneck) is not int or bottleneck < 1:
        raise _wrong(source, name, bottleneck, "a whole number of at least 1")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not isfinite(alpha):
        raise _wrong(source, "lora_alpha", alpha, "a finite number")
    return dict.fromkeys(modules, bottleneck), float(alpha)


def _told(source: Checkpoint, name: str, cores: Cores, shape: tuple[int, ...] | None) -> int:
    """The bottleneck between factors of so many numbers, for a weight of that shape."""
    if shape is None:
        needed_base(source, f"to tell the bottleneck of {name}, as no adapter_config.json does")
    numbers = {side: _numbers(source, cores.get(side, {})) for side in "AB"}
    for width, out in () if shape is None or len(shape) != 2 else (shape[::-1], shape):
        sizes = {divmod(numbers["A"], width), divmod(numbers["B"], out)}
        if len(sizes) == 1 and (size := next(iter(sizes)))[0] and not size[1]:
            return size[0]
    raise CheckpointError(
        f"{source.weights}: module {name} has factors of {numbers['A']} and {numbers['B']} numbers, expected the same "
        f"number of rows or columns of its weight {list(shape or ())} in both",
        hint=_AGAIN,
    )


def _numbers(source: Checkpoint, keys: Mapping[int, str]) -> int:
    """How many numbers the cores of a factor stand for."""
    return prod(source.tensors[key].shape[1] if source.tensors[key].ndim == 3 else 0 for key in keys.values())


def _wrong(source: Checkpoint, name: str, value: object, expected: str) -> CheckpointError:
    there = "is missing" if value is None else f"is {value!r}"
    return CheckpointError(
        f"{source.path}: {name} {there} in adapter_config.json, expected {expected}",
        hint=f"add the {name} that the adapter was trained with",
    )


def _factor(source: Checkpoint, name: str, side: str, keys: Mapping[int, str], bottleneck: int) -> Tensor:
    """All numbers of one factor in row-major order, float32, from its cores."""
    where = f"{source.weights}: module {name}: lora_{side}"
    if not keys or set(keys) != set(range(len(keys))):
        there = ", ".join(str(i) for i in sorted(keys)) or "none"
        raise CheckpointError(f"{where} has the cores {there}, expected 0, 1, ... without a gap", hint=_AGAIN)
    cores = [source.tensors[keys[i]] for i in range(len(keys))]
    left = 1
    for i, core in enumerate(cores):
        if core.ndim != 3 or core.shape[0] != left or 0 in core.shape or not core.is_floating_point():
            raise CheckpointError(
                f"{where}: core {i} is {list(core.shape)}, expected ({left}, mode, rank) of real numbers", hint=_AGAIN
            )
        if not bool(torch.isfinite(core).all()):
            raise CheckpointError(f"{source.weights}: tensor {keys[i]} holds NaN or infinity", hint="use another save")
        left = core.shape[2]
    numbers = prod(core.shape[1] for core in cores)
    if left != 1 or numbers % bottleneck or numbers > _NUMBERS:
        raise CheckpointError(
            f"{where}: modes {[core.shape[1] for core in cores]} and last rank {left}, expected {numbers} numbers to "
            f"be rows of bottleneck_size {bottleneck}, and last rank 1",
            hint="the weights and the configuration may belong to different adapters",
        )
    whole = torch.ones(1, 1, dtype=torch.float64)
    for core in cores:
        whole = (whole @ core.double().flatten(1)).reshape(-1, core.shape[2])
    return whole.flatten().float()


DIALECT = _Loretta()
