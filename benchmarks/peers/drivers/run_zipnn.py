"""ZipNN, which is lossless, of one run of bytes for each type of number, under the name of the type."""

from __future__ import annotations

from typing import Any

import numpy as np
from zipnn import ZipNN

from benchmarks.peers.drivers.exchange import Arrays, serve


def code(arrays: Arrays, _: Any) -> tuple[int, Arrays]:
    size, back = 0, {}
    for dtype, array in arrays.items():
        coder = ZipNN(input_format="byte", bytearray_dtype=dtype)
        packed = coder.compress(array.tobytes())
        size += len(packed)
        back[dtype] = np.frombuffer(coder.decompress(packed), dtype=np.uint8)
    return size, back


if __name__ == "__main__":
    serve(code)
