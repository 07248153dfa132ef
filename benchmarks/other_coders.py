"""What other programs make of an adapter in so many bytes: PEFT's lower ranks, EntroPack and NNCodec.

EntroPack and NNCodec code tensors. They get A and B of all modules stacked by width, rows of A and columns of B, which
saves them a header for each module; what they write counts whole. Their one parameter is set to the finest that fits.
NNCodec also gets the scaled singular factors that `svd` quantises, in which one step for all numbers is right. Both run
in environments of their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import adaptzip
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.linalg import factored_svd
from benchmarks.peers.environments import Environments
from benchmarks.peers.packages import ENTROPACK, NNCODEC, Package

Stacks = dict[str, Tensor]
"""Rows (rows, width) by the factor that they are of and its width."""
_BITS = (0.001, 11.0)
"""Bits per number that EntroPack takes."""
_HALVINGS = 12
_QPS = range(-44, 1)
"""Quantisation parameters of NNCodec, from fine to coarse: four double the step."""


@dataclass(frozen=True, eq=False)
class Coded:
    """An adapter as another program gives it back.

    Attributes:
        bytes: of what the program wrote.
        how: the parameter that was chosen.
    """

    adapter: Adapter
    bytes: int
    how: str


def half(adapter: Adapter) -> Coded:
    """The factors in float16, numbers alone."""
    modules = {
        name: replace(module, A=module.A.half().float(), B=module.B.half().float())
        for name, module in adapter.modules.items()
    }
    return Coded(replace(adapter, modules=modules), 2 * adapter.parameters, "float16")


def lower_rank(base: Path, folder: Path, rank: int) -> Coded:
    """PEFT's `save_as_lora` at one rank, in float16, numbers alone."""
    from peft import PeftModel, save_as_lora
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder)
    with tempfile.TemporaryDirectory() as made:
        save_as_lora(made, model, rank)
        return replace(half(adaptzip.read(made)), how=f"rank {rank}")


def entropack(environments: Environments, adapter: Adapter, limit: int) -> Coded:
    """EntroPack's E8 lattice at the most bits per number that fit, or at its fewest."""

    def coded(bits: float) -> Coded:
        return _coded(environments, ENTROPACK, adapter, bits, f"{bits:.3f} bits a number")

    low, high = _BITS
    best = coded(low)
    for _ in range(_HALVINGS):
        if best.bytes > limit:
            break
        middle = (low * high) ** 0.5
        tried = coded(middle)
        if tried.bytes <= limit:
            low, best = middle, tried
        else:
            high = middle
    return best


def nncodec(environments: Environments, adapter: Adapter, limit: int) -> Coded:
    """NNCodec with dependent quantisation at the finest parameter that fits, or at its coarsest."""

    def coded(qp: int) -> Coded:
        return _coded(environments, NNCODEC, adapter, qp, f"qp {qp}")

    low, high = 0, len(_QPS) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if coded(_QPS[middle]).bytes <= limit else (middle + 1, high)
    return coded(_QPS[low])


def _coded(environments: Environments, package: Package, adapter: Adapter, setting: float, how: str) -> Coded:
    arrays = {name: rows.numpy() for name, rows in stacked(adapter).items()}
    (answer,) = environments.ask(package, arrays, [setting])
    back = {name: torch.as_tensor(array) for name, array in answer.arrays.items()}
    return Coded(unstacked(adapter, back), answer.bytes, how)


def in_scaled_factors(coder: Callable[[Adapter, int], Coded], adapter: Adapter, limit: int) -> Coded:
    """A coder given s u and s v of every singular component in place of A and B.

    A component is u times the row of s v, so that the length of what is left of s u does not count.
    """
    coded = coder(scaled(adapter), limit)
    return replace(coded, adapter=unscaled(coded.adapter))


def scaled(adapter: Adapter) -> Adapter:
    """The adapter with s v and s u of every singular component in place of A and B, which is no longer its update."""

    def one(module: LoraFactors) -> LoraFactors:
        U, S, Vt = factored_svd(module.A[None].float(), module.B[None].float(), module.scaling)
        return replace(module, A=(S[0, :, None] * Vt[0]).contiguous(), B=(U[0] * S[0]).contiguous(), scaling=1.0)

    return replace(adapter, modules={name: one(module) for name, module in adapter.modules.items()})


def unscaled(adapter: Adapter) -> Adapter:
    """The update of what `scaled` made: the length of what is left of s u does not count."""
    tiny = torch.finfo(torch.float32).tiny
    modules = {
        name: replace(module, B=module.B / module.B.norm(dim=0, keepdim=True).clamp(min=tiny))
        for name, module in adapter.modules.items()
    }
    return replace(adapter, modules=modules)


def stacked(adapter: Adapter) -> Stacks:
    """Rows of A and columns of B of all modules, those of one length together."""
    found: dict[str, list[Tensor]] = {}
    for module in adapter.modules.values():
        for name, rows in (_key("A", module.A), module.A), (_key("B", module.B.T), module.B.T):
            found.setdefault(name, []).append(rows.float())
    return {name: torch.cat(rows).contiguous() for name, rows in found.items()}


def unstacked(adapter: Adapter, stacks: Mapping[str, Tensor]) -> Adapter:
    """The adapter with its factors taken from such rows."""
    rest = dict(stacks)

    def taken(side: str, like: Tensor) -> Tensor:
        name = _key(side, like)
        rows, rest[name] = rest[name].tensor_split([len(like)])
        return rows.contiguous()

    modules = {
        name: replace(module, A=taken("A", module.A), B=taken("B", module.B.T).T.contiguous())
        for name, module in adapter.modules.items()
    }
    return replace(adapter, modules=modules)


def _key(side: str, rows: Tensor) -> str:
    return f"{side}{rows.shape[1]}"
