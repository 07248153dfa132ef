"""What the dialects of PEFT's smaller methods share: one configuration, keys by module and part, and extras."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Files, Reader
from adaptzip.checkpoints._config import CONFIG_NAME, WEIGHT_NAMES, shown
from adaptzip.checkpoints._effects import with_plain_keys
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._parts import AGAIN, Parts, base_name
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError

Modules = Mapping[str, Parts]
"""The keys of each module's tensors by part, by module name in sorted order."""


class PeftMethod(Reader):
    """A dialect of one of PEFT's methods, whose updates its own tensors and configuration tell."""

    files = Files(WEIGHT_NAMES, CONFIG_NAME)
    kind: ClassVar[str]
    """Its peft_type."""
    own: ClassVar[str]
    """What is in the keys of the method after the module's name, and in no extra's, such as ".delora_"."""
    parts: ClassVar[str]
    """A regular expression of the parts of a module, which stand after `own` at the end of a key."""
    shared: ClassVar[str] = r"(?!)"
    """A regular expression of the keys of tensors that modules share, which `factors` takes from the file; none."""

    @abstractmethod
    def factors(self, source: Checkpoint, raw: Mapping[str, Any], modules: Modules) -> dict[str, LoraFactors]:
        """The factors of each module.

        Args:
            raw: the configuration.
            modules: the keys of its tensors.

        Raises:
            CheckpointError: if the tensors fit neither each other nor the configuration.
        """

    def sniff(self, source: Checkpoint) -> float:
        """Its keys tell, and the configuration where there is one.

        Keys of one method beside the configuration of another are refused by PEFT's LoRA, by name.
        """
        others = source.config is not None and source.config.get("peft_type") != self.kind
        return 0.0 if others else super().sniff(source)

    def read(self, source: Checkpoint) -> Adapter:
        raw = self._config(source)
        modules, extras = self._classified(source)
        meta = Meta(self.name, MappingProxyType(dict(raw)), base_name(raw))
        return Adapter(self.factors(source, raw, modules), with_plain_keys(extras), meta)

    def _config(self, source: Checkpoint) -> Mapping[str, Any]:
        raw = source.config
        if raw is None or raw.get("peft_type") != self.kind:
            kind = None if raw is None else shown(raw.get("peft_type"))
            found = "there is no adapter_config.json" if kind is None else f"its peft_type is {kind}"
            raise CheckpointError(
                f"{source.weights}: is {self.title}, but {found} beside it, so its scale is unknown",
                hint="put the adapter's own adapter_config.json beside it",
            )
        return raw

    def _classified(self, source: Checkpoint) -> tuple[dict[str, dict[str, str]], dict[str, Tensor]]:
        """The keys by module and part, and all other tensors."""
        pattern = re.compile(f"{re.escape(PREFIX)}(.+){re.escape(self.own)}({self.parts})")
        modules: dict[str, dict[str, str]] = {}
        extras = {}
        for key, tensor in source.tensors.items():
            found = pattern.fullmatch(key)
            if found is not None:
                modules.setdefault(found[1], {})[found[2]] = key
            elif re.fullmatch(self.shared, key):
                continue
            elif not key.startswith(PREFIX) or self.own in key:
                raise CheckpointError(
                    f"{source.weights}: the key {key} has no meaning in {self.title}",
                    hint=f"expected {PREFIX}<module>{self.own}...",
                )
            else:
                extras[key] = tensor
        if not modules:
            raise CheckpointError(f"{source.weights}: holds no factors of {self.title}", hint=AGAIN)
        return dict(sorted(modules.items())), extras
