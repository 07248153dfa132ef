"""Reading PEFT's VB-LoRA into an Adapter: its update is B @ A, so nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._config import DIFFERENT
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._parts import FLOATS, base_name, linear_layout
from adaptzip.checkpoints.peft_vblora.layout import BANK, INDICES, LOGITS, WEIGHTS
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError, warn

_WHOLE = (torch.uint8, torch.int16, torch.int32, torch.int64)
_KEY = re.compile(re.escape(PREFIX) + r"(.+)" + re.escape(LOGITS) + rf"([AB])({INDICES}|{WEIGHTS}|)")
_ROUNDING = float(torch.finfo(torch.float32).eps)
"""What each weight of a mixture may be rounded by, of 1."""
_AGAIN = "save the adapter again with PEFT's save_pretrained"


def read(source: Checkpoint) -> Adapter:
    """Read a VB-LoRA completely, whether all logits were saved or the largest k alone.

    Pieces are mixed as PEFT does it, with the softmax of the k largest logits in float32, so that merging gives its
    weights.

    Raises:
        CheckpointError: if the checkpoint is malformed.
    """
    raw = source.config
    if raw is None or raw.get("peft_type") != "VBLORA":
        found = "no adapter_config.json is beside it" if raw is None else f"its peft_type is {raw.get('peft_type')!r}"
        raise CheckpointError(f"{source.weights}: is a VB-LoRA, but {found}", hint=_AGAIN)
    if BANK not in source.tensors:
        raise CheckpointError(
            f"{source.weights}: is a VB-LoRA without its bank of vectors, {BANK}",
            hint="save the adapter again with PEFT's save_pretrained: the mixtures alone are of no use",
        )
    _, extras = _classify(source)
    bank, layout = _floats(source, BANK).float(), linear_layout(raw)
    factors = {name: _factors(source, name, mixed, bank, layout) for name, mixed in mixtures(source).items()}
    meta = Meta("peft-vblora", MappingProxyType(dict(raw)), base_name(raw))
    return Adapter(factors, {key: source.tensors[key] for key in extras}, meta)


@dataclass(frozen=True, eq=False)
class Mixtures:
    """Which vectors of the bank mix to the pieces of A or B.

    Attributes:
        indices: (rank, pieces, k) of A, (pieces, rank, k) of B.
        logits: likewise, float32; their softmax over k are the weights.
    """

    indices: Tensor
    logits: Tensor

    def transposed(self) -> Mixtures:
        """The same by the other order of ranks and pieces."""
        return Mixtures(self.indices.transpose(0, 1), self.logits.transpose(0, 1))


def mixtures(source: Checkpoint) -> dict[str, dict[str, Mixtures]]:
    """The k largest logits of A and B of each module, by module in sorted order.

    Raises:
        CheckpointError: if they, the bank or topk are malformed.
    """
    bank = _floats(source, BANK)
    if bank.ndim != 2 or 0 in bank.shape:
        raise CheckpointError(f"{source.weights}: {BANK} is {list(bank.shape)}, expected (vectors, length)")
    top_k = _whole(source, source.config or {}, "topk", bank.shape[0])
    return {
        name: {side: _mixtures(source, name, side, parts, bank.shape[0], top_k) for side in "AB"}
        for name, parts in sorted(_classify(source)[0].items())
    }


def _classify(source: Checkpoint) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The key of each part, such as "A_topk_indices", by module, and the keys of the extras."""
    modules: dict[str, dict[str, str]] = {}
    extras = []
    for key in source.tensors:
        match = _KEY.fullmatch(key)
        if match is not None:
            modules.setdefault(match[1], {})[match[2] + match[3]] = key
        elif key != BANK:
            if not key.startswith(PREFIX) or ".vblora_" in key:
                raise CheckpointError(f"{source.weights}: the key {key} has no meaning in a VB-LoRA", hint=_AGAIN)
            extras.append(key)
    if not modules:
        raise CheckpointError(f"{source.weights}: holds a bank and no logits of any module", hint=_AGAIN)
    return modules, extras


def _factors(source: Checkpoint, name: str, mixed: Mapping[str, Mixtures], bank: Tensor, layout: Layout) -> LoraFactors:
    """A of the pieces (rank, pieces, length), and B of the pieces (pieces, rank, length)."""
    A, B = (
        (torch.softmax(own.logits, dim=-1).unsqueeze(-1) * bank[own.indices]).sum(-2)
        for own in (mixed["A"], mixed["B"])
    )
    rank = A.shape[0]
    if B.shape[1] != rank:
        raise CheckpointError(
            f"{source.weights}: module {name} has A of rank {rank} and B of rank {B.shape[1]}", hint=_AGAIN
        )
    if rank != (source.config or {}).get("r"):
        raise CheckpointError(
            f"{source.weights}: module {name} has rank {rank}, not the configuration's", hint=DIFFERENT
        )
    return LoraFactors(A.reshape(rank, -1), B.transpose(1, 2).reshape(-1, rank), 1.0, layout)


def _mixtures(source: Checkpoint, name: str, side: str, parts: Mapping[str, str], vectors: int, top_k: int) -> Mixtures:
    """The k largest logits of one side of a module."""
    if side in parts:
        logits = _floats(source, parts[side]).float()
        if logits.ndim != 3 or 0 in logits.shape or logits.shape[2] != vectors:
            raise CheckpointError(
                f"{source.weights}: {parts[side]} is {list(logits.shape)}, expected one logit for each of the "
                f"{vectors} vectors"
            )
        largest, indices = logits.topk(top_k, dim=-1)
    elif side + INDICES in parts and side + WEIGHTS in parts:
        indices, weights = _topk(source, parts[side + INDICES], parts[side + WEIGHTS], vectors, top_k)
        largest, order = weights.log().topk(top_k, dim=-1)
        indices = indices.gather(-1, order)
    else:
        raise CheckpointError(f"{source.weights}: module {name} has no logits of {side}", hint=_AGAIN)
    return Mixtures(indices, largest)


def _topk(source: Checkpoint, index_key: str, weight_key: str, vectors: int, top_k: int) -> tuple[Tensor, Tensor]:
    """Checked indices and all weights of mixtures, (.., .., k) both."""
    indices, stored = source.tensors[index_key], _floats(source, weight_key).float()
    shape = [*indices.shape[:-1], top_k - 1]
    if indices.ndim != 3 or 0 in indices.shape or indices.shape[2] != top_k or list(stored.shape) != shape:
        raise CheckpointError(
            f"{source.weights}: {index_key} is {list(indices.shape)} and its weights {list(stored.shape)}, expected "
            f"{top_k} indices and {top_k - 1} weights of every piece"
        )
    if indices.dtype not in _WHOLE or int(indices.min()) < 0 or int(indices.max()) >= vectors:
        raise CheckpointError(f"{source.weights}: {index_key} names vectors that the bank of {vectors} lacks")
    ordered = indices.sort(-1).values
    if bool(torch.eq(ordered[..., 1:], ordered[..., :-1]).any()):
        raise CheckpointError(f"{source.weights}: {index_key} names a vector twice in one mixture")
    last = 1 - stored.sum(-1, keepdim=True)
    if bool((stored < 0).any()) or bool((last < -_ROUNDING * top_k).any()):
        raise CheckpointError(
            f"{source.weights}: {weight_key} has weights that are negative or add up to more than 1",
            hint="PEFT would load NaN for them; save all logits with save_only_topk_weights=False",
        )
    if bool((last < 0).any()):
        warn(
            f"{source.weights}: {weight_key} has weights that rounding makes {1 - float(last.min()):.9g} of 1, which "
            "are read as 1; PEFT itself loads NaN for them"
        )
    return indices.long(), torch.cat([stored, last.clamp(min=0)], dim=-1)


def _whole(source: Checkpoint, raw: Mapping[str, Any], name: str, most: int) -> int:
    value = raw.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise CheckpointError(f"{source.path}: {name} is {value!r}, expected a whole number from 1 to {most}")
    return value


def _floats(source: Checkpoint, key: str) -> Tensor:
    tensor: Tensor = source.tensors[key]
    if tensor.dtype not in FLOATS or not bool(torch.isfinite(tensor).all()):
        raise CheckpointError(
            f"{source.weights}: {key} has dtype {str(tensor.dtype).removeprefix('torch.')}, or NaN or infinity in it",
            hint="expected finite numbers in float32, float16, bfloat16 or float64",
        )
    return tensor
