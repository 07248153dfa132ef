"""Buffers that are used again hold what was asked for, and each thread has its own."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from adaptzip.core.scratch import Scratch


def test_one_buffer_serves_every_shape_and_dtype() -> None:
    scratch = Scratch()
    wide = scratch.take("a", (3, 5), torch.float32)
    assert (wide.shape, wide.dtype, wide.is_contiguous()) == ((3, 5), torch.float32, True)
    narrow = scratch.take("a", (2, 2, 2), torch.bfloat16)
    assert narrow.data_ptr() == wide.data_ptr()
    assert (narrow.shape, narrow.dtype) == ((2, 2, 2), torch.bfloat16)
    assert scratch.take("a", (100,), torch.float64).shape == (100,)
    assert scratch.take("a", (0, 7), torch.float32).numel() == 0


def test_purposes_and_threads_do_not_share() -> None:
    scratch = Scratch()
    found: list[Tensor] = [scratch.take("a", (4,), torch.float32), scratch.take("b", (4,), torch.float32)]
    thread = threading.Thread(target=lambda: found.append(scratch.take("a", (4,), torch.float32)))
    thread.start()
    thread.join()
    assert len({tensor.data_ptr() for tensor in found}) == 3
