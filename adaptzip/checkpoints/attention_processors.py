"""diffusers' oldest LoRA: parameters of the attention processors of a UNet, in pytorch_lora_weights.

A key is `<attention>.processor.to_q_lora.down.weight` (rank, in) or .up.weight (out, rank), and so for to_k, to_v and
to_out, which is the first layer of `to_out`; a `unet.` may stand before. There is no alpha, and the scale is 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from adaptzip.checkpoints._base import Checkpoint, Files, Signature, WriteOptions
from adaptzip.checkpoints._image.dialect import ImageDialect
from adaptzip.checkpoints._image.names import spelled
from adaptzip.checkpoints._image.spellings import to_diffusers
from adaptzip.checkpoints._losses import Loss, beside_products
from adaptzip.core.adapter import Adapter
from adaptzip.core.effects import Effect
from adaptzip.errors import CheckpointError, RefusedError

_STEM = re.compile(r"(unet\.)?(.+)\.processor\.(to_[qkv]|to_out|add_[kv]_proj)_lora")
_MODULE = re.compile(r"(.+)\.(to_[qkv]|to_out\.0|add_[kv]_proj)")


class _AttentionProcessors(ImageDialect):
    """The dialect `attention-processors`."""

    name = "attention-processors"
    title = "a LoRA of attention processors"
    judged_by = "diffusers, once in its own names"
    lacks = "anything but the projections of a UNet's attention; diffusers' pipelines load no such file any more"
    caution = "diffusers' pipelines load nothing of this file: `as_='diffusers'` writes what load_lora_weights reads"
    files = Files(
        ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"), None, ("pytorch_lora_weights.safetensors",)
    )
    spelling = "down"
    alphas = False
    signature = (
        Signature(r"\.processor\.(to_\w+|add_\w+)_lora\.(down|up)\.weight$", "a LoRA of attention processors"),
    )

    def names(self, stems: Iterable[str], source: Checkpoint) -> Mapping[str, str]:
        names = {}
        for stem in stems:
            found = _STEM.fullmatch(stem)
            if found is None:
                raise CheckpointError(
                    f"{source.weights}: {stem} has no meaning in {self.title}",
                    hint="expected <attention>.processor.to_q_lora and the like",
                )
            names[stem] = f"unet.{found[2]}.{found[3]}{'.0' if found[3] == 'to_out' else ''}"
        return names

    def details(self, source: Checkpoint, names: Mapping[str, str]) -> Mapping[str, Any]:
        return {"prefix": "unet." if all(stem.startswith("unet.") for stem in names) else ""}

    def holds(self, effect: Effect) -> bool:
        return False

    def respelled(self, adapter: Adapter) -> Adapter:
        return replace(adapter, modules=to_diffusers(adapter.modules))

    def lost(self, adapter: Adapter, options: WriteOptions) -> tuple[Loss, ...]:
        own = adapter.meta.dialect == self.name
        return (*super().lost(adapter, options), *(() if own else beside_products(adapter)))

    def stem(self, name: str, config: Mapping[str, Any]) -> str:
        component, path = spelled(name, self.title)
        found = _MODULE.fullmatch(path)
        if component != "unet" or found is None:
            raise RefusedError(
                f"module {name} is no projection of a UNet's attention, which {self.title} holds alone",
                hint="write it with `as_='diffusers'` or `as_='kohya'`",
            )
        return f"{config.get('prefix', '')}{found[1]}.processor.{found[2].removesuffix('.0')}_lora"


DIALECT = _AttentionProcessors()
