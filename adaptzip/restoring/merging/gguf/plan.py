"""What merging will do to every tensor of a GGUF file, decided before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adaptzip.core.adapter import Adapter
from adaptzip.errors import RefusedError
from adaptzip.restoring.merging.edits import Update
from adaptzip.restoring.merging.gguf.base import BaseTensor, GgufBase
from adaptzip.restoring.merging.gguf.numbers import BF16, FLOATS, Q8_0, byte_count, is_quantised, is_readable
from adaptzip.restoring.merging.gguf.placing import place
from adaptzip.restoring.merging.plan import listed
from adaptzip.restoring.merging.quantised_bases import How, not_quantised

_FLAGS = (
    "`dequantise=True` writes its exact weights with the update in bfloat16; `requantise=True` writes changed weights "
    "of Q8_0 as Q8_0 again"
)


@dataclass(frozen=True, eq=False)
class Output:
    """One tensor of the merged file.

    Attributes:
        base: what it is made of.
        kind: ggml's number of its type.
        bytes: how many it has.
        module: whose update it gets, None where it is not changed.
        update: the update.
    """

    base: BaseTensor
    kind: int
    bytes: int
    module: str | None = None
    update: Update | None = None


@dataclass(frozen=True, eq=False)
class GgufPlan:
    """What will be written.

    Attributes:
        base: the base model.
        outputs: the tensors, in the base's order.
        warnings: what the user should know of the result, a line each.
    """

    base: GgufBase
    outputs: tuple[Output, ...]
    warnings: tuple[str, ...] = ()

    @property
    def modules(self) -> int:
        """How many modules are merged."""
        return sum(output.module is not None for output in self.outputs)

    @property
    def extras(self) -> int:
        """How many extras are applied: a base in GGUF takes none."""
        return 0

    @property
    def dequantised(self) -> bool:
        """Whether tensors become bfloat16 that were quantised."""
        return any(output.kind != output.base.kind for output in self.outputs)


def plan_merge(adapter: Adapter, base: GgufBase, how: How | None = None, scale: float = 1.0) -> GgufPlan:
    """Find the place of every module, and the type of every tensor.

    Args:
        how: "dequantised" makes bfloat16 of all that is quantised, "requantised" Q8_0 again of changed tensors of Q8_0.
        scale: multiplies every update.

    Raises:
        BaseModelError, RefusedError: as `place`.
        RefusedError: if a tensor is quantised in a way that cannot be read, or written as asked for.
        UsageError: if a way is asked for and nothing is quantised.
    """
    updates = place(adapter, base, scale)
    if how is not None and not any(is_quantised(tensor.kind) for tensor in base.tensors.values()):
        raise not_quantised(base.path, how)
    return GgufPlan(base, tuple(_outputs(base, updates, how)), tuple(_warnings(adapter)))


def _outputs(base: GgufBase, updates: Mapping[str, tuple[str, Update]], how: How | None) -> Iterator[Output]:
    for name, tensor in base.tensors.items():
        module, update = updates.get(name, (None, None))
        kind = BF16 if how == "dequantised" and is_quantised(tensor.kind) else tensor.kind
        if update is not None and kind not in FLOATS:
            _check_type(base, tensor, how)
        if (update is not None or kind != tensor.kind) and not is_readable(tensor.kind):
            raise RefusedError(
                f"{base.path}: {name} is {tensor.type}, which the package gguf cannot dequantise",
                hint="give the model in another type",
            )
        size = tensor.bytes if kind == tensor.kind else byte_count(kind, tensor.shape)
        yield Output(tensor, kind, size or 0, module, update)


def _check_type(base: GgufBase, tensor: BaseTensor, how: How | None) -> None:
    """Raises: RefusedError: if a changed tensor cannot be written in the type that it has."""
    if not is_quantised(tensor.kind):
        raise RefusedError(
            f"{base.path}: {tensor.name} is {tensor.type}, expected F32, F16, BF16 or a quantised type",
            hint="give the model in another type",
        )
    if how is None:
        raise RefusedError(
            f"{base.path}: is quantised: {tensor.name}, which the adapter changes, is {tensor.type}", hint=_FLAGS
        )
    if tensor.kind != Q8_0:
        raise RefusedError(
            f"{base.path}: {tensor.name} is {tensor.type}, and changed weights are quantised again as Q8_0 alone",
            hint="`dequantise=True` writes its exact weights with the update in bfloat16",
        )


def _warnings(adapter: Adapter) -> Iterator[str]:
    if adapter.extras:
        yield f"{listed(adapter.extras)} did nothing: PEFT loads no such key beside the module's update either"
