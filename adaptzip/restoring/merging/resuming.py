"""What tells that two runs of `merge` make the same, so that one goes on where the other was stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from adaptzip._version import __version__
from adaptzip.restoring.merging.plan import MergePlan
from adaptzip.restoring.merging.provenance import weights_of


def merge_key(plan: MergePlan, options: Mapping[str, Any]) -> str:
    """A fingerprint of the base's weight files and configuration, of all that is done to them, and of the versions.

    Args:
        plan: what is merged.
        options: how.
    """
    times = {shard.path.name: shard.path.stat().st_mtime_ns for shard in plan.base.shards}
    # The configuration tells what quantised numbers mean, and decides what is written beside the weights.
    about = [__version__, torch.__version__, weights_of(plan.base), times, plan.base.config, options]
    sha = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for part in _parts(plan.outputs):
        sha.update(part)
    return sha.hexdigest()


def _parts(value: object) -> Iterator[bytes | memoryview]:
    """What a plan holds, tensors by their bytes and values by their fields, each with its kind."""
    yield f"{type(value).__name__}:".encode()
    if isinstance(value, Tensor):
        yield f"{value.dtype}{list(value.shape)}".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    elif is_dataclass(value):
        for field in fields(value):
            yield from _parts(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        yield f"{len(value)},".encode()
        for item in value:
            yield from _parts(item)
    else:
        yield f"{value!r};".encode()
