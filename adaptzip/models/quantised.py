"""Whether a base model's weights are quantised: told from its configuration, and where that is silent, its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from adaptzip.models.shards import StoredTensor, quantised

CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
"""Where a configuration tells of quantisation."""
_ENDINGS = {
    ".absmax": "bitsandbytes, 4 bit",
    ".SCB": "bitsandbytes, 8 bit",
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
    ".W_q": "HQQ",
    ".weight._data": "quanto",
    ".codebooks": "AQLM",
    ".trellis": "QTIP or EXL3",
    ".q_weight": "EXL2",
    "_qdata": "torchao",
    "_blocks": "MXFP4",
}
"""How the names of tensors end that quantisers write beside or in place of a weight."""

_FLOATS = "give the original float weights"
_DEQUANTISE = f"{_FLOATS}; `merge` takes these as its base with `dequantise=True`, which writes bfloat16"
_REQUANTISE = f"{_DEQUANTISE}, and float8 with scales with `requantise=True` as well"
_UNREAD = (
    "HQQ",
    "quanto",
    "AQLM",
    "QTIP or EXL3",
    "EXL2",
    "torchao",
    "MXFP4",
    "hqq",
    "aqlm",
    "mxfp4",
    "eetq",
    "vptq",
    "higgs",
)
"""What is not read in any way, among the names above and those of configurations."""
_PACKED = frozenset((torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32))
COMPANION = re.compile(r"scale|absmax|zero_?point|qzeros|codebook", re.IGNORECASE)
"""What the companions of a quantised weight are called."""


def refuse_quantised_config(path: Path, config: Mapping[str, Any]) -> None:
    """Raise a RefusedError if a configuration says that the weights are quantised, at whatever depth."""
    for table in config_tables(config):
        for key in CONFIG_KEYS:
            if table.get(key):
                which = _method(table[key]) or f"{key} in config.json"
                raise quantised(path, which, hint=_hint(which))


def refuse_quantised_tensors(path: Path, tensors: Iterable[StoredTensor]) -> None:
    """Raise a RefusedError if the names or dtypes of tensors show that weights are quantised."""
    what = quantised_sign(tensors)
    if what is not None:
        raise quantised(path, what, hint=_hint(what))


def _hint(which: str) -> str:
    if which in _UNREAD:
        return _FLOATS
    return _REQUANTISE if "fp8" in which or "float8" in which or which == "modelopt" else _DEQUANTISE


def quantised_sign(tensors: Iterable[StoredTensor]) -> str | None:
    """What in the names or dtypes of tensors shows that weights are quantised, None where nothing does."""
    table = {tensor.name: tensor for tensor in tensors}
    named = next((what for name in table for end, what in _ENDINGS.items() if _ends(table[name], end)), None)
    what = named or next((found for tensor in table.values() if (found := _packed_as(tensor))), None)
    return what or _with_companions(table)


def config_tables(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration and the tables within it, such as `text_config`."""
    waiting: list[Mapping[str, Any]] = [config]
    while waiting:
        table = waiting.pop(0)
        yield table
        waiting += [v for key, v in table.items() if isinstance(v, Mapping) and key.endswith("config")]


def _method(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return None
    named = value.get("quant_method") or value.get("quant_algo") or value.get("format")
    return named if isinstance(named, str) else None


def _ends(tensor: StoredTensor, end: str) -> bool:
    """The endings without a dot are common words, so that the dtype has to agree."""
    return tensor.name.endswith(end) and (end.startswith(".") or tensor.dtype in _PACKED)


def _packed_as(tensor: StoredTensor) -> str | None:
    if len(tensor.shape) < 2:
        return None
    short = str(tensor.dtype).removeprefix("torch.")
    packed = tensor.dtype in _PACKED and tensor.name.endswith(".weight")
    return f"{tensor.name} is {short}" if packed or short.startswith(("float8", "float4")) else None


def _with_companions(table: Mapping[str, StoredTensor]) -> str | None:
    """An integer matrix that has scales or zero points beside it, under names that no table here has."""
    companions = {name.rpartition(".")[0] for name in table if COMPANION.search(name.rpartition(".")[2])}
    for name, tensor in table.items():
        module, _, last = name.rpartition(".")
        if len(tensor.shape) > 1 and tensor.dtype in _PACKED and not COMPANION.search(last) and module in companions:
            return f"{name} is {str(tensor.dtype).removeprefix('torch.')}"
    return None
