"""Comparing what adaptzip makes of a file with what the independent decoder does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from small_adapters import bits

from adaptzip import Adapter
from adaptzip.dtypes import NAMES
from formats import decoder

GOLDEN = Path(__file__).parents[2] / "formats" / "golden"
MUST_REJECT = GOLDEN.parent / "must-reject"


def plain(adapter: Adapter) -> dict[str, Any]:
    """An adapter as plain values: dtype, shape and memory of each tensor, scalings, layouts."""
    values: dict[str, Any] = {}
    for name, m in adapter.modules.items():
        parts = {"A": m.A, "B": m.B, "magnitude": m.magnitude, "bias": m.bias}
        values |= {f"{key} {name}": _tensor(part) for key, part in parts.items() if part is not None}
        values[f"how {name}"] = (np.float64(m.scaling).tobytes(), m.layout, m.kernel)
    return values | {f"extra {name}": _tensor(tensor) for name, tensor in adapter.extras.items()}


def decoded(data: bytes) -> dict[str, Any]:
    """The same, from the independent decoder."""
    found = decoder.decode(data)
    values: dict[str, Any] = {}
    for name, module in found.modules.items():
        site = found.sites[name]
        values |= {f"A {name}": _words(module.A), f"B {name}": _words(module.B)}
        values[f"how {name}"] = (np.float64(module.scaling).tobytes(), site.layout, site.kernel)
    return values | {f"{role} {name}": _words(tensor) for (role, name), tensor in found.extras.items()}


def _tensor(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    return NAMES[tensor.dtype], tuple(tensor.shape), bits(tensor)


def _words(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    if isinstance(tensor, decoder.Tensor):
        return tensor.dtype, tensor.shape, tensor.words.tobytes()
    return "F32", tensor.shape, tensor.tobytes()
