"""PEFT's LoRA: adapter_config.json beside adapter_model.safetensors or adapter_model.bin."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from adaptzip.checkpoints._base import Checkpoint, Files, Reader, Signature, WriteOptions
from adaptzip.checkpoints._config import CONFIG_NAME, WEIGHT_NAMES, parse_config
from adaptzip.checkpoints._image.pipelines import out_of_pipeline
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._losses import Loss, losses_of
from adaptzip.checkpoints._registry import conventions
from adaptzip.checkpoints._safetensors import Contents, SafetensorsWriter
from adaptzip.checkpoints.peft.alphas import has_alphas
from adaptzip.checkpoints.peft.keys import split
from adaptzip.checkpoints.peft.prepare import losses_of_portable
from adaptzip.checkpoints.peft.reader import read
from adaptzip.checkpoints.peft.refusals import refuse_variants
from adaptzip.checkpoints.peft.targeting import left_out
from adaptzip.checkpoints.peft.writer import contents
from adaptzip.core.adapter import Adapter

__all__ = ["DIALECT"]


class _Peft(Reader, SafetensorsWriter):
    """The dialect `peft`."""

    name = "peft"
    title = "PEFT"
    judged_by = "PEFT"
    lacks = "several models in one adapter, and differences that are added to whole tensors"
    files = Files(WEIGHT_NAMES, CONFIG_NAME, (CONFIG_NAME, *WEIGHT_NAMES))
    signature = (Signature(r"^base_model\.model\..*\.lora_([AB]\.(weight|bias)|embedding_[AB])$", "a PEFT LoRA"),)

    def sniff(self, source: Checkpoint) -> float:
        prefixed = any(key.startswith(PREFIX) for key in source.tensors)
        if source.config is not None and "peft_type" in source.config and (prefixed or not source.tensors):
            # Not 1: other dialects write PEFT's configuration too, and know their own keys.
            return 0.95
        if any(split(key) is not None for key in source.tensors):
            return 0.9
        if has_alphas(source):
            return 0.5
        return 0.2 if prefixed else 0.0

    def read(self, source: Checkpoint) -> Adapter:
        return read(source)

    def spelled(self, adapter: Adapter) -> Adapter:
        """Of an image pipeline's adapter PEFT holds one component."""
        if not conventions(adapter.meta.dialect).pipelines:
            return adapter
        found = out_of_pipeline(adapter, self.title)
        meta = replace(found.meta, header=None, config_text=None, config=MappingProxyType({}))
        return replace(found, meta=meta)

    def lost(self, adapter: Adapter, options: WriteOptions) -> tuple[Loss, ...]:
        if options.portable:
            return losses_of_portable(adapter)
        effects = adapter.resolved.extras
        added = [key for key in adapter.extras if effects[key].role == "add"]
        by_input = [n for n, m in adapter.modules.items() if m.magnitude is not None and m.magnitude.ndim > 1]
        return losses_of(
            ("differences that are added to the base's tensors", "extra", added),
            ("DoRA magnitudes for each input", "magnitude", by_input),
        )

    def contents(self, adapter: Adapter, options: WriteOptions) -> Contents:
        return contents(adapter, options)

    def vet(self, adapter: Adapter, where: object) -> None:
        """More than for others: the ranks and scales of the configuration are the adapter's."""
        refuse_variants({"peft_type": "LORA", **adapter.meta.config}, where)
        parse_config(adapter.meta.config, where)
        super().vet(adapter, where)

    def overlooked(self, adapter: Adapter) -> tuple[str, ...]:
        return left_out(adapter)


DIALECT = _Peft()
