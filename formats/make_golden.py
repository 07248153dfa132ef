"""Make golden/: small valid files, and the tensors that they must decode to.

usage: python -m formats.make_golden

The files are committed and only ever added to: what a reader of version 1 once read, it reads for good. Making one
again may give other bytes, because the fit depends on the machine's linear algebra; decoding never does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.adapter import Adapter, LoraFactors, Meta
from adaptzip.compression import compress
from adaptzip.dtypes import DTYPES, NAMES
from adaptzip.reconstruction import reconstruct

FOLDER = Path(__file__).resolve().parent / "golden"


def factors(out: int, width: int, rank: int, seed: int, **options: Any) -> LoraFactors:
    """Random factors with a falling spectrum."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, width, generator=generator)
    B = torch.randn(out, rank, generator=generator) * 0.6 ** torch.arange(rank)
    return LoraFactors(A, B, **options)


def mixed() -> Adapter:
    """Two layers of three shapes, named as a language model's are."""
    shapes = {"self_attn.q_proj": (48, 32), "self_attn.v_proj": (16, 32), "mlp.down_proj": (32, 80)}
    modules = {
        f"model.layers.{layer}.{name}": factors(*shape, 4, seed=10 * layer + i, scaling=0.5)
        for layer in range(2)
        for i, (name, shape) in enumerate(shapes.items())
    }
    config = {"r": 4, "lora_alpha": 2, "base_model_name_or_path": "some/model", "peft_type": "LORA"}
    return Adapter(modules, {}, Meta(config=config))


def spiky() -> Adapter:
    """Rows with single numbers far outside, which take escapes, beside tiny shapes."""
    module = factors(24, 40, 3, seed=1)
    module.A[0, 5], module.A[2, 0], module.B[7, 1] = 900.0, -300.0, 40.0
    return Adapter({"m": module, "one": factors(1, 1, 1, seed=2), "row": factors(1, 9, 1, seed=3)})


def uneven() -> Adapter:
    """Modules so different in strength that weak ones vanish; one is zero from the start."""
    modules = {f"h.{i}": factors(30, 20, 3, seed=i, scaling=0.3**i) for i in range(4)}
    modules["h.4"] = LoraFactors(torch.zeros(3, 20), torch.zeros(30, 3))
    return Adapter(modules)


def wide() -> Adapter:
    """A tensor of 32768 numbers and more, which is dealt to short chains."""
    A = torch.randn(8, 4200, generator=torch.Generator().manual_seed(5))
    return Adapter({"wide": LoraFactors(A, torch.eye(12, 8))})


def layouts() -> Adapter:
    """Every layout, a DoRA magnitude, a bias, and names that patterns must escape."""
    return Adapter(
        {
            "c.{x}, \\y": factors(8, 27, 2, seed=1, layout="conv", kernel=(3, 3)),
            "c.fc": factors(12, 8, 2, seed=2, layout="transposed", magnitude=torch.rand(12) + 1),
            "experts.w[0]": factors(8, 12, 2, seed=3, layout="expert"),
            "experts.w[1]": factors(8, 12, 2, seed=4, layout="expert_transposed"),
            "wte.é-1": factors(6, 50, 2, seed=5, layout="embedding"),
            "z": factors(9, 7, 2, seed=6, bias=torch.arange(9.0), magnitude=torch.ones(9)),
        }
    )


def extras() -> Adapter:
    """An extra of every dtype, and those that are packed in a special way."""
    generator = torch.Generator().manual_seed(7)
    plain = torch.randn(6, 5, generator=generator)
    tensors = {f"x.{name}": (plain * 3).to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {
        "bf16 in f32": torch.randn(40, generator=generator).bfloat16().float(),
        "f16 in f32": torch.randn(40, generator=generator).half().float(),
        "specials": torch.tensor([float("nan"), -0.0, 0.0, float("inf"), -float("inf"), 1e-45]),
        "payload": torch.tensor([0x7FC12345, 0x7F800001, -1], dtype=torch.int32).view(torch.float32),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "zeros": torch.zeros(100, 10),
        "head.weight": torch.randn(12, 64, generator=generator),
    }
    return Adapter({"m": factors(8, 6, 1, seed=1)}, tensors)


def skewed() -> Adapter:
    """An extra so long and so uneven that its plane is coded by ANS."""
    rare = torch.rand(40000, generator=torch.Generator().manual_seed(8)) < 0.03
    return Adapter({"m": factors(8, 6, 1, seed=1)}, {"rare": rare})


def mixed_dtypes() -> Adapter:
    """Factors of several dtypes and ranks, one with more ranks than its shape, and the source's header."""
    modules = {
        "a": factors(6, 9, 2, seed=1, scaling=1 / 3),
        "b": factors(4, 3, 5, seed=2, scaling=2.0),
        "c": LoraFactors(torch.ones(1, 3).half(), torch.full((2, 1), 0.1).bfloat16(), 0.25),
    }
    head = torch.arange(4.0).bfloat16().float()
    return Adapter(modules, {"head": head}, Meta(config={"r": 2}, header=b'{"made":"up"}', config_text='{ "r": 2 }\n'))


CASES: Mapping[str, tuple[Callable[[], Adapter], dict[str, Any]]] = {
    "coarse": (mixed, {"max_error": 0.5}),
    "default": (mixed, {}),
    "fine": (mixed, {"max_error": 0.002}),
    "finest": (spiky, {"max_error": 2e-4}),
    "escapes": (spiky, {"max_error": 0.002}),
    "vanishing": (uneven, {"max_error": 0.12}),
    "wide": (wide, {"max_error": 0.8}),
    "layouts": (layouts, {"max_error": 0.2}),
    "extras": (extras, {}),
    "extras-float16": (extras, {"extras": "float16"}),
    "extras-bfloat16": (extras, {"extras": "bfloat16"}),
    "extras-int8": (extras, {"extras": "int8"}),
    "extras-skewed": (skewed, {}),
    "lossless": (mixed_dtypes, {"lossless": True}),
}


def describe(tensor: Tensor) -> list[Any]:
    """[dtype, shape, SHA-256 of the elements in memory order] of a tensor."""
    memory = bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return [NAMES[tensor.dtype], list(tensor.shape), hashlib.sha256(memory).hexdigest()]


def expectation(path: Path) -> dict[str, Any]:
    """What a file decodes to."""
    adapter = reconstruct(path)
    extras = {f"extra {name}": describe(tensor) for name, tensor in adapter.extras.items()}
    for name, module in adapter.modules.items():
        parts = {"magnitude": module.magnitude, "bias": module.bias}
        extras |= {f"{role} {name}": describe(part) for role, part in parts.items() if part is not None}
    modules = {
        name: {"A": describe(module.A), "B": describe(module.B), "scaling": module.scaling}
        for name, module in adapter.modules.items()
    }
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "modules": modules, "extras": extras}


def main() -> None:
    """Make every file that is not there yet."""
    FOLDER.mkdir(exist_ok=True)
    expected = {}
    for name, (make, options) in CASES.items():
        path = FOLDER / f"{name}.adz"
        if not path.exists():
            compress(make(), path, **options)
        expected[path.name] = expectation(path)
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
