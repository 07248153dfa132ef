"""LoRAs in the bare names of an original implementation, such as Black Forest Labs' own of Flux's control models.

A key is `<module>.<part>` with the parts lora_A.weight (rank, in), lora_B.weight (out, rank) and lora_B.bias, or
kohya's; beside them are whole tensors, the scales of norms, which replace the base's. Without an alpha the scale is 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._image.beside import carried
from adaptzip.checkpoints._image.dialect import ImageDialect
from adaptzip.checkpoints._image.keys import split
from adaptzip.checkpoints._image.names import DENOISERS, ORIGINAL, spelled
from adaptzip.checkpoints._image.spellings import in_original
from adaptzip.core.adapter import Adapter
from adaptzip.core.effects import Effect
from adaptzip.errors import RefusedError

_FIRST = r"(double_blocks|single_blocks|joint_blocks|input_blocks|middle_block|output_blocks)\.\d"
_WAN = r"blocks\.\d+\.(self_attn|cross_attn|ffn)\.(q|k|v|o|0|2)(?=\.|$)"


class _Bfl(ImageDialect):
    """The dialect `bfl`."""

    name = "bfl"
    title = "a LoRA in an original model's names"
    judged_by = "diffusers, once in its own names"
    lacks = "text encoders; of other tensors all but norms' scales"
    spelling = "lora_A"
    alphas = False
    signature = (Signature(rf"^({_FIRST}.*|{_WAN})\.(lora_|lokr_|hada_)", "a LoRA in an original model's names"),)

    def sniff(self, source: Checkpoint) -> float:
        return super().sniff(source) if not any(".processor." in key for key in source.tensors) else 0.0

    def whole(self, key: str) -> bool:
        return split(key) is None and key.endswith(".scale")

    def holds(self, effect: Effect) -> bool:
        return effect.role == "add" or (effect.role == "replace" and effect.tensor.endswith(".scale"))

    def names(self, stems: Iterable[str], source: Checkpoint) -> Mapping[str, str]:
        return {stem: f"{ORIGINAL}.{stem}" for stem in stems}

    def respelled(self, adapter: Adapter) -> Adapter:
        found = carried(adapter, in_original(adapter.modules))
        if not any(re.match(rf"{_FIRST}|{_WAN}", name.partition(".")[2]) for name in found.modules):
            raise RefusedError(
                f"module {next(iter(found.modules), '')} is of a model that is not told by its bare names",
                hint="write it with `as_='comfyui'` or `as_='kohya'`",
            )
        return found

    def stem(self, name: str, config: Mapping[str, Any]) -> str:
        component, path = spelled(name, self.title)
        if component not in DENOISERS:
            raise RefusedError(
                f"module {name} is of a text encoder, for which {self.title} has no place",
                hint="write it with `as_='comfyui'` or `as_='kohya'`",
            )
        return path


DIALECT = _Bfl()
