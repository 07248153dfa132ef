"""Whether a file that is trained was made of the teacher that it is to act like."""

from __future__ import annotations

from torch import Tensor

from adaptzip.adz.coding.packing import unpack_tensors
from adaptzip.core.function_method import FunctionMethod
from adaptzip.distillation.beginning import Beginning
from adaptzip.errors import RefusedError
from adaptzip.fitting.requests import Original

_PACKED_ERROR = 0.05
"""Extras that differ by no more, relatively, were packed in another way."""
_HINT = "train a file that was made of this teacher, or leave the source out"


def check_alike(teacher: Original, beginning: Beginning) -> None:
    """Refuse to train a file whose modules or extras are others than those that the teacher runs with.

    Raises:
        RefusedError: if they are.
    """
    linear = not isinstance(beginning.coder.method, FunctionMethod)
    for name, site in beginning.coder.sites.items() if linear else ():
        module = teacher.adapter.modules.get(name)
        if module is None or module.shape != (site.out, site.width):
            found = "has none" if module is None else f"has {module.shape[0]} x {module.shape[1]}"
            raise RefusedError(f"module {name!r} is {site.out} x {site.width}, the teacher {found}", hint=_HINT)
    extras = beginning.plan.extras
    ours = {(e.role, e.name): t for e, t in zip(extras.entries, unpack_tensors(extras), strict=True)}
    for entry, tensor in zip(teacher.extras.entries, unpack_tensors(teacher.extras), strict=True):
        if not linear and entry.role != "extra":
            continue  # Magnitudes and biases belong to updates.
        other = ours.pop((entry.role, entry.name), None)
        if other is None or other.shape != tensor.shape or not _near(other, tensor):
            raise RefusedError(f"the {entry.role} {entry.name} is not the teacher's", hint=_HINT)
    for role, name in ours:
        raise RefusedError(f"the {role} {name} is not the teacher's", hint=_HINT)


def _near(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same but for how they were packed."""
    ours, theirs = a.double().nan_to_num(), b.double().nan_to_num()
    return bool((ours - theirs).norm() <= _PACKED_ERROR * theirs.norm())
