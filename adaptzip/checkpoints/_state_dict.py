"""What the dialects of training scripts share, which save a plain state_dict(): of the adapter alone, or of the model.

Its keys are names of the model's tensors. Of a whole model only what was trained is the adapter's, which its base model
tells: what is equal there was frozen, and buffers of fixed numbers are none of the base's parameters.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from adaptzip.checkpoints._base import Checkpoint, Reader
from adaptzip.checkpoints._base_name import KEY as BASE
from adaptzip.checkpoints._config import shown
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.checkpoints._parts import AGAIN, Parts, base_name, number
from adaptzip.checkpoints._trained import trained
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.core.meta import Meta
from adaptzip.errors import CheckpointError, UsageError

_TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}
"""PEFT's names of tasks, by the ends of the names of transformers' classes."""


class StateDict(Reader):
    """A dialect of a plain state_dict()."""

    parts: ClassVar[str]
    """A regular expression of the parts of a module, which stand after its name and a dot at the end of a key."""
    own: ClassVar[str]
    """What is in the keys of the method and in no other's of a model, such as ".lora_"."""

    @abstractmethod
    def factors(
        self, source: Checkpoint, raw: Mapping[str, Any], modules: Mapping[str, Parts], others: Mapping[str, str]
    ) -> dict[str, LoraFactors]:
        """The factors of each module.

        Args:
            raw: the configuration that was given, or else config.json beside the file; {} without either.
            modules: the keys of the modules' tensors by part, by module name in sorted order.
            others: the keys of all other tensors by the model's name for them.

        Raises:
            CheckpointError: if the tensors fit neither each other nor the configuration, or their scale is unknown.
            RefusedError: if the base model is needed to tell their meaning, and is not there.
        """

    def sniff(self, source: Checkpoint) -> float:
        """Its keys tell; beside a configuration of PEFT, which scales in another way, they are none of its own."""
        return 0.0 if "peft_type" in (source.config or {}) else super().sniff(source)

    def read(self, source: Checkpoint) -> Adapter:
        raw = source.config or source.model_config or {}
        modules, others = self._classified(source)
        factors = self.factors(source, raw, modules, others)
        found = trained(source, others, factors)
        base = base_name(raw, "_name_or_path") or base_name(raw)
        config = {
            BASE: base,
            "modules_to_save": list(found.heads) or None,
            "peft_type": "LORA",
            "task_type": _task(raw),
        }
        return Adapter(factors, found.extras, Meta(self.name, MappingProxyType(config), base))

    def _classified(self, source: Checkpoint) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
        """The keys by module and part, and all others by the model's name for their tensor."""
        pattern = re.compile(rf"(.+)\.({self.parts})")
        modules: dict[str, dict[str, str]] = {}
        others = {}
        for key in source.tensors:
            name = key.removeprefix(PREFIX)
            found = pattern.fullmatch(name)
            if found is not None:
                modules.setdefault(found[1], {})[found[2]] = key
            elif self.own in f".{name}":
                raise CheckpointError(f"{source.weights}: the key {key} has no meaning in {self.title}", hint=AGAIN)
            else:
                others[name] = key
        if not modules:
            raise CheckpointError(f"{source.weights}: holds no factors of {self.title}", hint=AGAIN)
        return dict(sorted(modules.items())), others


def alpha_of(source: Checkpoint, raw: Mapping[str, Any]) -> float:
    """lora_alpha, as the configuration or the user says it.

    Raises:
        CheckpointError: if neither does, or the configuration's is no number.
        UsageError: if both do.
    """
    if source.alpha is None and raw.get("lora_alpha") is None:
        raise CheckpointError(
            f"{source.weights}: no configuration beside it says lora_alpha, so its scale is unknown",
            hint="give the lora_alpha that it was trained with by `alpha=`",
        )
    if source.alpha is None:
        return number(source, raw, "lora_alpha")
    if raw.get("lora_alpha") is not None:
        raise UsageError(
            f"`alpha={source.alpha:g}` was given, but the configuration beside {source.weights} says that lora_alpha "
            f"is {shown(raw['lora_alpha'])}",
            hint="leave `alpha=` out",
        )
    return source.alpha


def weight_shapes(
    source: Checkpoint, modules: Collection[str], others: Mapping[str, str]
) -> dict[str, tuple[int, ...] | None]:
    """The shape of each module's weight, as the file has it, or else the base; None where neither is there.

    Raises:
        BaseModelError: if the base is there, and lacks one.
    """
    inside = {name: others.get(f"{name}.weight") for name in modules}
    base = None if source.base is None or all(inside.values()) else source.base.named_by(list(modules))
    return {
        name: tuple(source.tensors[key].shape) if key else None if base is None else base.shape(f"{name}.weight")
        for name, key in inside.items()
    }


def layout_of(shape: tuple[int, ...] | None, out: int, width: int) -> Layout:
    """How a weight of that shape lies; a square one, or one that is not known, as linear layers' do."""
    return "transposed" if shape == (width, out) and out != width else "linear"


def layout_fits(shape: tuple[int, ...] | None, out: int, width: int) -> bool:
    """Whether a weight of that shape may have an update (out, width); one that is not known may."""
    return shape is None or shape in ((out, width), (width, out))


def _task(raw: Mapping[str, Any]) -> str | None:
    """PEFT's name of the task that a model's configuration tells, or None."""
    named = raw.get("architectures")
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    return next((task for name in names for end, task in _TASKS.items() if name.endswith(end)), None)
