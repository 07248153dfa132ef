"""How a base model stores a module's weight: as the update lies, (out, in), or transposed."""

from __future__ import annotations

from math import prod

from torch import Tensor

from adaptzip.core.adapter import LoraFactors
from adaptzip.core.layouts import TRANSPOSED_EXPERT_TYPES, TURNED, Layout
from adaptzip.errors import BaseModelError, RefusedError
from adaptzip.models.folder import BaseModel
from adaptzip.models.names import Location

WHICH = "is this the base model that the adapter was trained on?"
RESIZED = (
    "the adapter was trained after the vocabulary had changed its size: call the base's resize_token_embeddings, save "
    "it with the new tokenizer, and merge into that"
)

CONV1D_TYPES = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Model types whose blocks consist of transformers' Conv1D, which stores (in, out)."""

COLUMN_EXPERT_TYPES = TRANSPOSED_EXPERT_TYPES | {"llama4", "llama4_text"}
"""Model types that store an expert's `out` along the columns; PEFT takes Llama 4's for rows all the same."""

INTERLEAVED_EXPERT_TYPES = frozenset({"gpt_oss", "openai_privacy_filter"})
"""Model types whose fused experts have the outputs of gate and up projection by turns, not one after the other."""


def stored_layout(
    base: BaseModel, module: str, factors: LoraFactors, site: Location, shape: tuple[int, ...] | None = None
) -> Layout:
    """The layout of the tensor at `site`, told from its shape, and where that is square from the base model.

    The adapter's own word (PEFT's fan_in_fan_out) decides last, because PEFT itself corrects it by the base.

    Args:
        base: the base model.
        module: the module's name, for messages and to tell a block's weights from others.
        factors: its update.
        site: where the weight is stored.
        shape: the tensor's shape where it is no longer the stored one.

    Raises:
        BaseModelError: if the update has another shape than the weight.
        RefusedError: if experts are fused in one of the two and apart in the other, and the model's have the outputs
            of their projections by turns.
    """
    refuse_interleaved(base, module, site)
    found = base.stored(site.tensor).shape if shape is None else shape
    out, width = factors.shape
    if is_turned_by_peft(base, factors, site):
        out, width = width, out
    if site.rows is not None:
        out = site.rows[1] - site.rows[0]
    if site.part is not None:
        out *= site.part[1]
    if site.expert is not None:
        found = found[1:]
    layouts = _layouts(factors, site, out, width)
    fitting = [layout for layout, fits in layouts.items() if found == fits]
    if fitting and is_turned_by_peft(base, factors, site):
        return "expert_transposed"
    if not fitting and site.expert is None and (flat := _flattened(factors, found, (out, width))) is not None:
        return flat
    if not fitting:
        expected = next(iter(layouts.values()))
        raise BaseModelError(
            f"{base.path}: {site.tensor} is {list(found)}, the adapter's {module} expects {list(expected)}",
            hint=RESIZED if _is_resized(base, site.tensor, found, expected) else WHICH,
        )
    if len(fitting) == 1:
        return fitting[0]
    return fitting[1] if _is_transposed(base, module, factors, fitting) else fitting[0]


def _is_resized(base: BaseModel, tensor: str, found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether an embedding has another number of tokens than expected and is the same otherwise."""
    of_tokens = tensor == base.input_embedding or base.is_output(tensor)
    return of_tokens and len(found) == len(expected) and found[1:] == expected[1:]


def refuse_interleaved(base: BaseModel, module: str, site: Location) -> None:
    """Raise a RefusedError where halves of an expert's outputs are no projections of their own."""
    if base.model_type not in INTERLEAVED_EXPERT_TYPES or (site.part is None and site.rows is None):
        return
    told = (
        f"fuses the experts' projections, the adapter has {module} apart"
        if site.rows is None
        else f"is a projection of its own, the adapter fuses {module}"
    )
    raise RefusedError(
        f"{base.path}: {site.tensor} {told}, and {base.model_type} has the outputs of the two by turns",
        hint="merge it into the base model in the form that it was trained on",
    )


def part_of(weight: Tensor, part: tuple[int, int] | None, layout: Layout) -> Tensor:
    """The part of its outputs that a module has of a fused weight, as a view; all of them for None."""
    if part is None:
        return weight
    number, count = part
    side = 1 if layout in TURNED else 0
    size = weight.shape[side] // count
    return weight.narrow(side, number * size, size)


def is_turned_by_peft(base: BaseModel, factors: LoraFactors, site: Location) -> bool:
    """Whether the update is of experts that PEFT took for (out, in) and are not, and the base has them apart."""
    taken_for_rows = base.model_type in COLUMN_EXPERT_TYPES - TRANSPOSED_EXPERT_TYPES
    return taken_for_rows and factors.layout == "expert" and site.expert is None


def _layouts(factors: LoraFactors, site: Location, out: int, width: int) -> dict[Layout, tuple[int, ...]]:
    """The shapes that a weight may have, by layout, the likelier one first."""
    if factors.layout == "embedding":
        return {"embedding": (width, out)}
    if factors.layout == "conv":
        size = 1
        for k in factors.kernel:
            size *= k
        return {"conv": (out, width // size, *factors.kernel)}
    if site.expert is not None:
        return {"expert": (out, width), "expert_transposed": (width, out)}
    if factors.layout in ("expert", "expert_transposed"):
        return {"expert": (out, width)}
    return {"linear": (out, width), "transposed": (width, out)}


def _flattened(factors: LoraFactors, found: tuple[int, ...], shape: tuple[int, int]) -> Layout | None:
    """The layout where a file has a kernel flattened into the inputs, or one of size 1 for a plain layer."""
    if factors.layout == "linear" and len(found) > 2 and (found[0], prod(found[1:])) == shape:
        return "conv"
    return "linear" if factors.layout == "conv" and prod(factors.kernel) == 1 and found == shape else None


def _is_transposed(base: BaseModel, module: str, factors: LoraFactors, layouts: list[Layout]) -> bool:
    if layouts[1] == "expert_transposed":
        of_peft = factors.layout.startswith("expert")
        types = TRANSPOSED_EXPERT_TYPES if of_peft else COLUMN_EXPERT_TYPES
        return base.model_type in types or factors.layout == "expert_transposed"
    return stores_turned(base, module, factors.layout == "transposed")


def stores_turned(base: BaseModel, module: str, otherwise: bool = False) -> bool:
    """Whether the base stores a linear layer as (in, out): those of its blocks, by its type or its biases' lengths.

    Args:
        otherwise: the answer where nothing tells.
    """
    if not any(part.isdigit() for part in module.split(".")):
        return False
    if base.model_type in CONV1D_TYPES:
        return True
    evidence = _block_weights_are_transposed(base)
    return otherwise if evidence is None else evidence


def _block_weights_are_transposed(base: BaseModel) -> bool | None:
    """What the base's own biases say, whose length is a weight's `out`; None where there is no telling."""
    for name in base.tensors:
        bias = name.removesuffix("weight") + "bias"
        if not name.endswith(".weight") or bias not in base.tensors or not any(p.isdigit() for p in name.split(".")):
            continue
        shape, out = base.stored(name).shape, base.stored(bias).shape
        if len(shape) == 2 and shape[0] != shape[1]:
            return (shape[1],) == out
    return None
