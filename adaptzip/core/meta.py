"""Where an adapter came from; read without torch, so that a file's header can be shown at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from adaptzip.core.showing import Shown

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, repr=False)
class Meta(Shown):
    """Where an adapter came from.

    Attributes:
        dialect: the checkpoint dialect it was read from, such as "peft".
        config: the dialect's own configuration (PEFT's adapter_config.json), in file order.
        base_model: name or path of the base model as the adapter names it, or None.
        header: the source safetensors header, byte for byte, where the tensors are the source's own; it lets
            a lossless file be written back identically.
        config_text: the configuration file's text, byte for byte, under the same condition.
        dtype: the dtype that the source's factors had, where they were decoded to another; else None.
        parts: tensors of the source that no factor shows, such as those of a product, as `module:part`, where there is
            a header.
    """

    dialect: str = "peft"
    config: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    base_model: str | None = None
    header: bytes | None = None
    config_text: str | None = None
    dtype: torch.dtype | None = None
    parts: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}), compare=False)

    def __getstate__(self) -> dict[str, Any]:
        # Views of mappings can't be pickled.
        return {**self.__dict__, "config": dict(self.config), "parts": dict(self.parts)}

    def _told(self) -> Iterable[str]:
        yield self.dialect
        yield f"base model {self.base_model}" if self.base_model else ""

    @property
    def described(self) -> Meta:
        """The same without what holds for the source's own tensors alone: header, configuration text, dtype, parts."""
        return replace(self, header=None, config_text=None, dtype=None, parts=MappingProxyType({}))
