"""The adapter that is built of what was found: factors by module, and what is kept whole under PEFT's keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, zeros_like

from adaptzip.checkpoints import PREFIX, resolved
from adaptzip.checkpoints._trained import same
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.meta import Meta
from adaptzip.core.truncating import Truncated
from adaptzip.models.folder import BaseModel
from adaptzip.restoring.extracting.pairing import Pairing

_TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}
"""PEFT's task by how the name of the tuned model's class ends."""
_EXPERTS = ("expert", "expert_transposed")


def factors_of(pairing: Pairing, found: Mapping[str, Truncated]) -> dict[str, LoraFactors]:
    """The factors by module.

    Of stacked experts of which some changed, the others get nothing at rank 1, as dialects hold all or none.
    """
    modules = {}
    for part, _ in pairing.parts:
        if part.name in found:
            cut = found[part.name]
            modules[part.name] = LoraFactors(cut.A, cut.B, layout=part.layout, kernel=part.kernel)
    stacks = {_stack(name): factors for name, factors in modules.items() if factors.layout in _EXPERTS}
    for part, _ in pairing.parts:
        like = stacks.get(_stack(part.name)) if part.layout in _EXPERTS else None
        if like is not None and part.name not in modules:
            A, B = zeros_like(like.A[:1]), zeros_like(like.B[:, :1])
            modules[part.name] = LoraFactors(A, B, layout=part.layout)
    return {name: modules[name] for name in sorted(modules)}


def changed_wholes(base: BaseModel, tuned: BaseModel, pairing: Pairing) -> dict[str, Tensor]:
    """The tensors that are kept whole, of those that differ, by their names in the tuned model."""
    found = {}
    for whole in pairing.wholes:
        tensor = tuned.read(whole.name)
        if whole.before is None or not same(tensor, base.read(whole.before)):
            found[whole.name] = tensor
    return found


def built(
    tuned: BaseModel,
    pairing: Pairing,
    modules: Mapping[str, LoraFactors],
    wholes: Mapping[str, Tensor],
    base_name: str | None,
) -> Adapter:
    """The adapter, of PEFT's dialect, with its effects."""
    config: dict[str, Any] = {"peft_type": "LORA", "task_type": _task(tuned)}
    if pairing.heads:
        config["modules_to_save"] = list(pairing.heads)
    extras = {_key(name, modules): tensor for name, tensor in wholes.items()}
    return resolved(Adapter(modules, extras, Meta("peft", config, base_name)))


def _stack(name: str) -> str:
    return name.rpartition("[")[0]


def _key(name: str, modules: Mapping[str, LoraFactors]) -> str:
    """PEFT's key of a tensor; a layer with factors lies one level deeper."""
    module, _, leaf = name.rpartition(".")
    return f"{PREFIX}{module}.base_layer.{leaf}" if module in modules else PREFIX + name


def _task(tuned: BaseModel) -> str | None:
    classes = tuned.config.get("architectures") or [""]
    return next((task for end, task in _TASKS.items() if str(classes[0]).endswith(end)), None)
