"""A second reader of `.bank` files, written from bank-1.md alone; nothing of adaptzip is used here."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np

from formats.decoder import BANK, Basis, Spec, base64url, decode_block, need

_MOST = {"rank": 2**20, "length": 2**20, "vectors": 2**20, "top_k": 8, "levels": 2**16}


def read_bank(data: bytes) -> tuple[Basis, str]:
    """The vectors as `decoder.decode` takes them, and the hash.

    Raises:
        Broken: if bank-1.md says that it must be refused.
    """
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__")
    need(metadata.keys() == {"adaptzip-bank"} and header.keys() == {"bank"}, "no bank")
    entry, chunk = header["bank"], data[8 + length :]
    need(entry["dtype"] == "U8" and entry["shape"] == [len(chunk)] and len(chunk) > 0, "no bytes in a row")
    value = json.loads(metadata["adaptzip-bank"])
    need(value.keys() == {*_MOST, "description", "format", "hash", "step"}, "malformed")
    need(value["format"] == 1 and len(value["description"]) <= 1000, "malformed")
    need(all(type(value[key]) is int and 1 <= value[key] <= most for key, most in _MOST.items()), "malformed")
    vectors, levels, step = value["vectors"], value["levels"], value["step"]
    need(value["top_k"] < vectors and vectors * value["length"] <= 2**28, "malformed")
    need(levels >= 2 and levels & (levels - 1) == 0, "malformed")
    need(math.isfinite(step) and step > 0 and float(np.float32(step)) == step, "malformed")
    told = [value[key] for key in ("rank", "length", "vectors", "top_k", "levels", "step")]
    found = base64url(hashlib.sha256(json.dumps(told).encode() + b"\n" + chunk).digest()[:16])
    need(found == value["hash"], "damaged")
    spec = Spec(vectors, value["length"])
    numbers = decode_block(chunk, 1, lambda _: [spec])[0].astype(np.float32) * np.float32(step)
    need(bool(np.isfinite(numbers).all()) and not numbers[-1].any(), "not finite, or the last is not zero")
    return {BANK: (numbers, np.zeros((0, 0), np.float32))}, found
