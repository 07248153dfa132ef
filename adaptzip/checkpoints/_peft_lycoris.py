"""What PEFT's LoHa and LoKr share: scales as a LoRA's, and products of small tensors that have exact factors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._base_shapes import kernels
from adaptzip.checkpoints._config import DIFFERENT, PeftConfig, parse_config
from adaptzip.checkpoints._parts import AGAIN, Parts, part_of
from adaptzip.checkpoints._peft_method import Modules, PeftMethod
from adaptzip.checkpoints._products import Factors
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import CheckpointError


class PeftLycoris(PeftMethod):
    """A dialect of one of the two. The update is alpha / rank times the product; ranks and alphas go by module.

    A convolution's kernel is known where a tensor has its dimensions, or the base model is given. Else it is flattened
    into the inputs, and the module looks like a linear layer.
    """

    needed: ClassVar[tuple[str, ...]] = ()
    """Parts that no module is without."""

    @abstractmethod
    def product(self, parts: Mapping[str, Tensor]) -> Factors:
        """The factors of a module's update before it is scaled.

        Raises:
            ValueError: if the tensors do not fit together.
        """

    def factors(self, source: Checkpoint, raw: Mapping[str, Any], modules: Modules) -> dict[str, LoraFactors]:
        config = parse_config({**raw, "lora_alpha": raw.get("alpha", 8), "use_rslora": False}, source.path)
        parts = {name: self._parts(source, name, keys) for name, keys in modules.items()}
        pairs = {name: self._pair(source, config, name, parts[name], keys) for name, keys in modules.items()}
        known = kernels(source, {name: (B.shape[0], A.shape[1]) for name, (B, A) in pairs.items()})
        found = {}
        for name, (B, A) in pairs.items():
            kernel = known.get(name, _kernel(parts[name]))
            found[name] = LoraFactors(A, B, config.scaling(name), "conv" if kernel else "linear", kernel)
        return found

    def _parts(self, source: Checkpoint, name: str, keys: Parts) -> dict[str, Tensor]:
        return {part: part_of(source, name, keys, part) for part in dict.fromkeys((*self.needed, *sorted(keys)))}

    def _pair(
        self, source: Checkpoint, config: PeftConfig, name: str, parts: Mapping[str, Tensor], keys: Parts
    ) -> Factors:
        """B and A of a module, whose rank is that of the configuration."""
        try:
            pair = self.product(parts)
        except ValueError as error:
            raise CheckpointError(f"{source.weights}: module {name} {error}", hint=AGAIN) from error
        for part in ("w1_b", "w2_b"):
            if part in parts and parts[part].shape[0] != config.rank(name):
                raise CheckpointError(
                    f"{source.weights}: {keys[part]} is of rank {parts[part].shape[0]}, but adapter_config.json says "
                    f"{config.rank(name)}",
                    hint=DIFFERENT,
                )
        return pair


def _kernel(parts: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The kernel that the tensors have as dimensions of their own, () where they have none.

    PEFT gives the core of a convolution in one dimension a second one of size 1.
    """
    for part in ("t2", "w2"):
        if part in parts:
            sizes = tuple(parts[part].shape[2:])
            return sizes[:1] if part == "t2" and len(sizes) == 2 and sizes[1] == 1 else sizes
    return ()
