"""Quantised weights made from chosen numbers, packed bit by bit, and what they are worth, one number at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.cases.base_folders import MODULE, llama_tensors, write_config, write_weights

Stored = tuple[dict[str, Tensor], Tensor]
"""The tensors of a module, by what comes after its name, and the float32 weight that they stand for."""
Store = Callable[[int, int, torch.Generator], Stored]

NF4 = [
    float(x)
    for x in torch.special.ndtri(
        torch.cat([torch.linspace(0.9677083, 0.5, 9)[:8].double(), torch.linspace(0.9677083, 0.5, 8)[:7].double()])
    )
]
"""Quantiles of a normal distribution, eight above and seven below zero."""


@dataclass(frozen=True)
class Case:
    """One way to store a weight: what config.json says of it, and the tensors."""

    settings: Mapping[str, Any] | None
    store: Store
    float8: bool = False


def bits_to_words(numbers: Sequence[int], bits: int) -> list[int]:
    """int32 words of numbers that follow each other bit by bit, the lowest first."""
    whole = sum(number << (bits * place) for place, number in enumerate(numbers))
    count = -(-len(numbers) * bits // 32)
    words = [(whole >> (32 * place)) & 0xFFFFFFFF for place in range(count)]
    return [word - (1 << 32) if word >> 31 else word for word in words]


def packed_rows(numbers: Tensor, bits: int) -> Tensor:
    return torch.tensor([bits_to_words(row, bits) for row in numbers.tolist()], dtype=torch.int32)


def integers(shape: tuple[int, ...], low: int, high: int, generator: torch.Generator) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=generator)


def scales(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.rand(shape, generator=generator) * 0.05 + 0.01).to(dtype)


def each(shape: tuple[int, int], value: Callable[[int, int], Tensor | float]) -> Tensor:
    """A float32 matrix, made one number at a time."""
    return torch.stack(
        [torch.stack([torch.as_tensor(value(o, i)).float() for i in range(shape[1])]) for o in range(shape[0])]
    )


def table(kind: str) -> Tensor:
    """The sixteen numbers of bitsandbytes' four bits, by their definitions."""
    if kind == "fp4":
        half = torch.tensor([0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0]) / 12
        return torch.cat([half, -half])
    quantiles = torch.tensor(NF4)
    values = torch.cat([quantiles[:8], torch.zeros(1), -quantiles[8:]]).sort().values
    return values / values.abs().max()


def four_bits(kind: str, block: int, double: bool, storage: torch.dtype = torch.uint8) -> Store:
    def store(out: int, width: int, generator: torch.Generator) -> Stored:
        count = out * width
        codes, blocks = integers((count,), 0, 15, generator), -(-count // block)
        data = torch.tensor([(a << 4) | b for a, b in codes.reshape(-1, 2).tolist()], dtype=torch.uint8)
        told: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "float16", "shape": [out, width]}
        tensors = {"weight": data.view(storage).reshape(-1, 1), "weight.quant_map": table(kind)}
        worth = scales((blocks,), generator)
        tensors["weight.absmax"] = worth
        if double:
            inner = integers((blocks,), 0, 255, generator)
            codebook, above = torch.linspace(-1, 1, 256), scales((-(-blocks // 4),), generator)
            tensors["weight.absmax"] = inner.to(torch.uint8)
            tensors |= {"weight.nested_absmax": above, "weight.nested_quant_map": codebook}
            told |= {"nested_blocksize": 4, "nested_dtype": "float32", "nested_offset": 0.0312345678}
            worth = torch.stack([codebook[code] * above[b // 4] for b, code in enumerate(inner)]) + 0.0312345678
        tensors[f"weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(
            list(json.dumps(told).encode()), dtype=torch.uint8
        )
        numbers = table(kind)
        return tensors, each((out, width), lambda o, i: numbers[codes[o * width + i]] * worth[(o * width + i) // block])

    return store


def eight_bits(out: int, width: int, generator: torch.Generator) -> Stored:
    codes, largest = integers((out, width), -127, 127, generator), scales((out,), generator)
    tensors = {"weight": codes.to(torch.int8), "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    share = torch.tensor(1 / 127)
    return tensors, each((out, width), lambda o, i: codes[o, i] * largest[o] * share)


def gptq(bits: int, size: int, *, second: bool = False, ordered: bool = False) -> Store:
    def store(out: int, width: int, generator: torch.Generator) -> Stored:
        count = width // size
        codes = integers((out, width), 0, 2**bits - 1, generator)
        zeros = integers((count, out), 1, 2**bits - 1, generator)
        worth = scales((count, out), generator, torch.float16)
        groups = torch.arange(width) // size
        if ordered:
            groups = groups[torch.randperm(width, generator=generator)]
        tensors = {
            "qweight": packed_rows(codes, bits).T.contiguous(),
            "qzeros": packed_rows(zeros if second else zeros - 1, bits),
            "scales": worth,
            "g_idx": groups.to(torch.int32),
        }
        return tensors, each(
            (out, width), lambda o, i: float(codes[o, i] - zeros[groups[i], o]) * float(worth[groups[i], o])
        )

    return store


def awq(size: int) -> Store:
    def packed(numbers: Tensor) -> Tensor:
        """Of each eight columns the even ones come first."""
        columns = [c + k for c in range(0, numbers.shape[1], 8) for k in (0, 2, 4, 6, 1, 3, 5, 7)]
        return packed_rows(numbers[:, columns], 4)

    def store(out: int, width: int, generator: torch.Generator) -> Stored:
        codes = integers((out, width), 0, 15, generator)
        zeros, worth = integers((width // size, out), 0, 15, generator), scales((width // size, out), generator).half()
        tensors = {"qweight": packed(codes.T), "qzeros": packed(zeros), "scales": worth}
        return tensors, each(
            (out, width), lambda o, i: float(codes[o, i] - zeros[i // size, o]) * float(worth[i // size, o])
        )

    return store


def compressed_packed(bits: int, size: int, *, zero: bool, dtype: torch.dtype, ordered: bool = False) -> Store:
    def store(out: int, width: int, generator: torch.Generator) -> Stored:
        half, count = 1 << (bits - 1), width // size
        codes = integers((out, width), -half, half - 1, generator)
        worth, groups = scales((out, count), generator, dtype), torch.arange(width) // size
        tensors = {
            "weight_packed": packed_rows(codes + half, bits),
            "weight_scale": worth,
            "weight_shape": torch.tensor([out, width]),
        }
        zeros = (
            integers((out, count), -half, half - 1, generator) if zero else torch.zeros((out, count), dtype=torch.int64)
        )
        if zero:
            tensors["weight_zero_point"] = packed_rows((zeros + half).T, bits).T.contiguous()
        if ordered:
            groups = groups[torch.randperm(width, generator=generator)]
            tensors["weight_g_idx"] = groups.to(torch.int32)

        def value(o: int, i: int) -> Tensor:
            return (codes[o, i] - zeros[o, groups[i]]).to(dtype) * worth[o, groups[i]]

        return tensors, each((out, width), value)

    return store


def compressed_integers(out: int, width: int, generator: torch.Generator) -> Stored:
    codes, worth = integers((out, width), -128, 127, generator), scales((out, 1), generator, torch.bfloat16)
    zeros = integers((out, 1), -20, 20, generator)
    tensors = {"weight": codes.to(torch.int8), "weight_scale": worth, "weight_zero_point": zeros.to(torch.int8)}
    return tensors, each((out, width), lambda o, i: (codes[o, i] - zeros[o, 0]).to(torch.bfloat16) * worth[o, 0])


def float8(ending: str, height: int, width: int, *, dtype: torch.dtype = torch.float32, vector: bool = False) -> Store:
    """Blocks of so many rows and columns; 0 for all."""

    def store(out: int, inputs: int, generator: torch.Generator) -> Stored:
        h, w = height or out, width or inputs
        codes = (torch.randn((out, inputs), generator=generator) * 50).to(torch.float8_e4m3fn)
        worth = scales((-(-out // h), -(-inputs // w)), generator, dtype)
        stored = worth.reshape(()) if worth.numel() == 1 and vector else worth.flatten() if vector else worth
        weight = each((out, inputs), lambda o, i: codes[o, i].to(dtype) * worth[o // h, i // w])
        return {"weight": codes, ending: stored}, weight

    return store


def plain_float8(out: int, inputs: int, generator: torch.Generator) -> Stored:
    codes = torch.randn((out, inputs), generator=generator).to(torch.float8_e5m2)
    return {"weight": codes}, each((out, inputs), lambda o, i: float(codes[o, i]))


def _compressed(format: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}}
    return {
        "quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": ["lm_head"],
    }  # fmt: skip


def _bnb(bits: int) -> dict[str, Any]:
    return {"quant_method": "bitsandbytes", f"load_in_{bits}bit": True}


def _gptq(bits: int, size: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": size, **more}


_BF16 = torch.bfloat16
CASES: dict[str, Case] = {
    "nf4": Case(_bnb(4), four_bits("nf4", 64, False)),
    "nf4, double": Case(_bnb(4), four_bits("nf4", 32, True)),
    "fp4 in bfloat16, double": Case(_bnb(4), four_bits("fp4", 64, True, _BF16)),
    "int8": Case(_bnb(8), eight_bits),
    "gptq 2": Case(_gptq(2, 8), gptq(2, 8)),
    "gptq 3": Case(_gptq(3, 16), gptq(3, 16)),
    "gptq 4, one group": Case(_gptq(4, -1), gptq(4, 32)),
    "gptq 4, ordered": Case(_gptq(4, 8, desc_act=True), gptq(4, 8, ordered=True)),
    "gptq 4, second version": Case(_gptq(4, 8, checkpoint_format="gptq_v2"), gptq(4, 8, second=True)),
    "gptq 8": Case(_gptq(8, 16), gptq(8, 16)),
    "awq": Case({"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}, awq(16)),
    "packed 4": Case(
        _compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=8),
        compressed_packed(4, 8, zero=False, dtype=_BF16),
    ),
    "packed 4, zeros": Case(
        _compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=16, symmetric=False),
        compressed_packed(4, 16, zero=True, dtype=torch.float16),
    ),
    "packed 8, ordered": Case(
        _compressed("pack-quantized", num_bits=8, type="int", strategy="group", group_size=8),
        compressed_packed(8, 8, zero=False, dtype=torch.float32, ordered=True),
    ),
    "packed 3, a scale a row": Case(
        _compressed("pack-quantized", num_bits=3, type="int", strategy="channel"),
        compressed_packed(3, 32, zero=False, dtype=_BF16),
    ),
    "integers": Case(
        _compressed("int-quantized", num_bits=8, type="int", strategy="channel", symmetric=False), compressed_integers
    ),
    "compressed float8": Case(
        _compressed("float-quantized", num_bits=8, type="float", strategy="channel"),
        float8("weight_scale", 1, 0, dtype=_BF16), True,
    ),
    "compressed float8 in blocks": Case(
        _compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[16, 8]),
        float8("weight_scale", 16, 8), True,
    ),
    "blocks": Case({"quant_method": "fp8", "weight_block_size": [12, 12]}, float8("weight_scale_inv", 12, 12), True),
    "autofp8": Case(
        {"quant_method": "fp8", "activation_scheme": "static"}, float8("weight_scale", 0, 0, vector=True), True
    ),
    "fbgemm": Case({"quant_method": "fbgemm_fp8"}, float8("weight_scale", 1, 0), True),
    "modelopt": Case(
        {"quant_method": "modelopt", "quant_algo": "FP8"}, float8("weight_scale", 0, 0, vector=True), True
    ),
    "float8 without scales": Case(None, plain_float8),
}  # fmt: skip


def write_quantised(folder: Path, case: Case, module: str = MODULE, seed: int = 0) -> Tensor:
    """A tiny Llama of which one module is quantised; returns what its weight is worth."""
    tensors = llama_tensors(0.5)
    out, width = tensors.pop(f"{module}.weight").shape
    made, weight = case.store(out, width, torch.Generator().manual_seed(seed))
    told = {} if case.settings is None else {"quantization_config": case.settings}
    write_config(folder, dtype="float16", **told)
    write_weights(folder / "model.safetensors", {**tensors, **{f"{module}.{end}": t for end, t in made.items()}})
    return weight


def write_module(folder: Path, case: Case, shape: tuple[int, int] = (40, 32)) -> Tensor:
    """A folder with one quantised module called `m` and nothing else."""
    made, weight = case.store(*shape, torch.Generator().manual_seed(1))
    folder.mkdir(parents=True, exist_ok=True)
    told = {"dtype": "float16"} | ({} if case.settings is None else {"quantization_config": case.settings})
    (folder / "config.json").write_text(json.dumps(told))
    write_weights(folder / "model.safetensors", {f"m.{end}": tensor for end, tensor in made.items()})
    return weight
