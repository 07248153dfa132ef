"""The basis that LoRA-SB starts from: the first step that full fine-tuning would take."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from adaptzip.bases.directions import AT_ONCE, dense_directions, pair
from adaptzip.core.basis import Basis, BasisReference, ModuleBasis
from adaptzip.core.workers import on_one_core, parallel_map
from adaptzip.errors import RefusedError, UsageError


@on_one_core()
def basis_from_gradients(gradients: Mapping[str, Tensor], size: int, description: str = "gradients") -> Basis:
    """The singular directions of each module's first update under AdamW, -sign(gradient).

    The first AdamW step moves every weight by the learning rate against the gradient's sign, whatever its magnitude
    (LoRA-SB, arXiv 2411.19557, section 3; there B = U, A = V^T and the core starts at the singular values). The
    learning rate scales the singular values only and is left out.

    Args:
        gradients: by module name, (out, in): the gradient of the loss summed over the samples.
        size: most directions k of a module.

    Returns:
        A basis whose reference says "embedded", until it is written to a file.

    Raises:
        UsageError: if `size` is not positive or a gradient is no matrix of finite numbers.
        RefusedError: if a gradient is zero everywhere.
    """
    if size < 1 or not gradients:
        raise UsageError(f"a basis of size {size} from {len(gradients)} gradients was asked for, expected at least 1")

    def directions(name: str) -> ModuleBasis:
        gradient = gradients[name]
        if gradient.ndim != 2 or not bool(gradient.isfinite().all()):
            raise UsageError(f"the gradient of module {name} is {list(gradient.shape)}, expected finite (out, in)")
        if not bool(gradient.any()):
            raise RefusedError(
                f"the gradient of module {name} is zero, so it has no directions",
                hint="give texts that the module acts on, or leave the module out",
            )
        U, _, V = dense_directions(-gradient.sign(), size)
        return pair(U, V)

    names = sorted(gradients)
    modules = dict(zip(names, parallel_map(directions, names, most=AT_ONCE), strict=True))
    return Basis(modules, BasisReference("embedded", max(m.size for m in modules.values()), "", description))
