"""XLabs' LoRA of Flux: attention processors in the original model's names.

A key is `double_blocks.N.processor.qkv_lora1.down.weight` (rank, in) or .up.weight (out, rank): 1 is the image's side,
2 the text's, and proj_lora their output. In single blocks qkv_lora is the first rows of linear1, whose others stay,
and proj_lora is linear2. There is no alpha, and the scale is 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from adaptzip.checkpoints._base import Checkpoint, Signature, WriteOptions
from adaptzip.checkpoints._image.beside import carried
from adaptzip.checkpoints._image.dialect import ImageDialect
from adaptzip.checkpoints._image.names import ORIGINAL
from adaptzip.checkpoints._image.spellings import in_original
from adaptzip.checkpoints._losses import Loss, beside_products
from adaptzip.checkpoints._safetensors import Contents
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.errors import CheckpointError, RefusedError

_PARTS = {
    "qkv_lora1": "img_attn.qkv",
    "qkv_lora2": "txt_attn.qkv",
    "proj_lora1": "img_attn.proj",
    "proj_lora2": "txt_attn.proj",
    "qkv_lora": "linear1",
    "proj_lora": "linear2",
}
_NAMES = {path: part for part, path in _PARTS.items()}
_STEM = re.compile(r"((?:double|single)_blocks\.\d+)\.processor\.(\w+)")
_MODULE = re.compile(rf"{ORIGINAL}\.((?:double|single)_blocks\.\d+)\.(.+)")
_SHARE = 3 / 7
"""How much of linear1's rows are queries, keys and values; the rest go into the feed-forward layer."""


class _Xlabs(ImageDialect):
    """The dialect `xlabs`."""

    name = "xlabs"
    title = "an XLabs LoRA"
    judged_by = "diffusers, once in its own names"
    lacks = "anything but the attention of Flux"
    spelling = "down"
    alphas = False
    signature = (Signature(r"_blocks\.\d+\.processor\.(qkv|proj)_lora[12]?\.(down|up)\.weight$", "an XLabs LoRA"),)

    def names(self, stems: Iterable[str], source: Checkpoint) -> Mapping[str, str]:
        names = {}
        for stem in stems:
            found = _STEM.fullmatch(stem)
            if found is None or found[2] not in _PARTS:
                raise CheckpointError(
                    f"{source.weights}: {stem} has no meaning in {self.title}",
                    hint="expected double_blocks.N.processor.qkv_lora1 and the like",
                )
            names[stem] = f"{ORIGINAL}.{found[1]}.{_PARTS[found[2]]}"
        return names

    def read(self, source: Checkpoint) -> Adapter:
        found = super().read(source)
        return replace(found, modules={name: _whole(name, factors) for name, factors in found.modules.items()})

    def respelled(self, adapter: Adapter) -> Adapter:
        return carried(adapter, in_original(adapter.modules))

    def lost(self, adapter: Adapter, options: WriteOptions) -> tuple[Loss, ...]:
        own = adapter.meta.dialect == self.name
        return (*super().lost(adapter, options), *(() if own else beside_products(adapter)))

    def stem(self, name: str, config: Mapping[str, Any]) -> str:
        found = _MODULE.fullmatch(name)
        if found is None or found[2] not in _NAMES:
            raise RefusedError(
                f"module {name} is no attention of Flux, which {self.title} holds alone",
                hint="write it with `as_='comfyui'` or `as_='kohya'`",
            )
        return f"{found[1]}.processor.{_NAMES[found[2]]}"

    def contents(self, adapter: Adapter, options: WriteOptions) -> Contents:
        modules = {name: _attention(name, factors) for name, factors in adapter.modules.items()}
        return super().contents(replace(adapter, modules=modules), options)


def _whole(name: str, factors: LoraFactors) -> LoraFactors:
    """With zeros for the rows of linear1 that XLabs leaves as they are."""
    if not name.endswith(".linear1"):
        return factors
    out = round(factors.shape[0] / _SHARE)
    return replace(factors, B=torch.nn.functional.pad(factors.B, (0, 0, 0, out - factors.shape[0])))


def _attention(name: str, factors: LoraFactors) -> LoraFactors:
    """Without these rows.

    Raises:
        RefusedError: if they are not all zero.
    """
    if not name.endswith(".linear1"):
        return factors
    rows = round(factors.shape[0] * _SHARE)
    if bool(factors.B[rows:].any()):
        raise RefusedError(
            f"module {name} updates the feed-forward layer, which an XLabs LoRA cannot hold",
            hint="write it with `as_='comfyui'` or `as_='kohya'`",
        )
    return replace(factors, B=factors.B[:rows].contiguous())


DIALECT = _Xlabs()
