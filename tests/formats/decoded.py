"""Comparing what adaptzip makes of a file with what the independent decoder does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adaptzip import Adapter
from adaptzip.adz.container.reader import open_adz
from adaptzip.files.dtypes import NAMES
from adaptzip.restoring.reconstruction import coder_of
from adaptzip.testing.adapters import bits
from formats import decoder, decoder_starts
from formats.decoder_bank import read_bank
from formats.make_golden import BANK, FIRST, beside

GOLDEN = Path(__file__).parents[2] / "formats" / "golden"
MUST_REJECT = GOLDEN.parent / "must-reject"
TEAM = GOLDEN / "team.basis"


def plain(adapter: Adapter) -> dict[str, Any]:
    """An adapter as plain values: dtype, shape and memory of each tensor, scalings, layouts."""
    values: dict[str, Any] = {}
    for name, m in adapter.modules.items():
        parts = {"A": m.A, "B": m.B, "magnitude": m.magnitude, "bias": m.bias}
        values |= {f"{key} {name}": _tensor(part) for key, part in parts.items() if part is not None}
        values[f"how {name}"] = (np.float64(m.scaling).tobytes(), m.layout, m.kernel)
    return values | {f"extra {name}": _tensor(tensor) for name, tensor in adapter.extras.items()}


def decoded(data: bytes, basis: decoder.Basis | None = None) -> dict[str, Any]:
    """The same, from the independent decoder."""
    found = decoder.decode(data, basis)
    values: dict[str, Any] = {}
    for name, module in found.modules.items():
        site = found.sites[name]
        values |= {f"A {name}": _words(module.A), f"B {name}": _words(module.B)}
        values[f"how {name}"] = (np.float64(module.scaling).tobytes(), site.layout, site.kernel)
    return values | {f"{role} {name}": _words(tensor) for (role, name), tensor in found.extras.items()}


def given(path: Path) -> decoder.Basis | None:
    """What a golden file needs beside itself, as the independent decoder takes it."""
    reference = open_adz(path).basis
    if reference is None or reference.source in ("embedded", "start"):
        return None
    if reference.source == "reference":
        first = decoder.decode(FIRST.read_bytes()).modules
        whole = {name: decoder_starts.reference_matrix(module.A) for name, module in first.items()}
        return {name: (np.zeros((0, 0), np.float32), decoder_starts.frame(N)) for name, N in whole.items()}
    if reference.source == "bank":
        bank, found = read_bank(BANK.read_bytes())
        assert found == reference.hash
        return bank
    basis = coder_of(open_adz(path), **beside(path)).basis
    assert basis is not None
    means = {name: () if m.mean is None else (m.mean.numpy(),) for name, m in basis.modules.items()}
    return {name: (m.U.float().numpy(), m.V.float().numpy(), *means[name]) for name, m in basis.modules.items()}


def agree(ours: dict[str, Any] | None, theirs: dict[str, Any] | None, *, near: bool = True) -> bool:
    """Whether two decoders found the same, to the last bits that the format's section 7.3 leaves open if `near`."""
    if ours is None or theirs is None or not near:
        return ours == theirs
    return ours.keys() == theirs.keys() and all(_alike(key, ours[key], theirs[key]) for key in ours)


def _alike(key: str, one: Any, other: Any) -> bool:
    if one == other or one[:2] != other[:2] or key[:2] not in ("A ", "B ") or one[0] != "F32":
        return bool(one == other)
    x, y = (np.frombuffer(values[2], np.float32).astype(np.float64) for values in (one, other))
    with np.errstate(all="ignore"):
        # A gain adds one rounding more.
        far = np.abs(x - y) > np.abs(x) * 2.0**-21 + np.abs(x[np.isfinite(x)]).max(initial=0.0) * 2.0**-38
    return np.array_equal(np.isfinite(x), np.isfinite(y)) and not (far & np.isfinite(x)).any()


def _tensor(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    return NAMES[tensor.dtype], tuple(tensor.shape), bits(tensor)


def _words(tensor: Any) -> tuple[str, tuple[int, ...], bytes]:
    if isinstance(tensor, decoder.Tensor):
        return tensor.dtype, tensor.shape, tensor.words.tobytes()
    return "F32", tensor.shape, tensor.tobytes()
