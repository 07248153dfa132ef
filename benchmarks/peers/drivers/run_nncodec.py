"""NNCodec at one quantisation parameter; everything that it writes counts."""

from __future__ import annotations

import tempfile
from importlib import import_module
from typing import Any

from torch.library import Library

from benchmarks.peers.drivers.exchange import Arrays, serve

# NNCodec imports torchvision, though not to code tensors. A torchvision for GPUs does not find its operators beside a
# torch for CPUs, and can then be imported only if these two have names.
try:
    import_module("torchvision")
except RuntimeError:
    named = Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        named.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]

from nncodec.nn import decode, encode  # noqa: E402


def code(arrays: Arrays, qp: Any) -> tuple[int, Arrays]:
    with tempfile.TemporaryDirectory() as folder:
        stream = encode(arrays, args={"qp": qp, "results": folder, "verbose": False})
    return len(stream), dict(decode(stream))


if __name__ == "__main__":
    serve(code)
