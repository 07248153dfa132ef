"""What a file holds besides factors: extras, and magnitudes and biases of modules."""

from __future__ import annotations

from math import prod

from torch import Tensor

from adaptzip.adz.coding.packing import check_finite, unpack_tensors
from adaptzip.core.compressed import Compressed, ExtraEntry, Site
from adaptzip.errors import FormatError


def extras_of(compressed: Compressed) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Extras by key, DoRA magnitudes by module, LoRA biases by module."""
    tables: dict[str, dict[str, Tensor]] = {"extra": {}, "magnitude": {}, "bias": {}}
    for entry, tensor in zip(compressed.extras.entries, unpack_tensors(compressed.extras), strict=True):
        if entry.role not in tables:
            raise FormatError(f"extra {entry.name!r} has unknown role {entry.role!r}")
        site = compressed.sites.get(entry.name)
        if entry.role != "extra" and (site is None or entry.shape not in _shapes(entry, site)):
            raise FormatError(f"the {entry.role} of {entry.name!r} does not fit a module of the file")
        if entry.role != "extra":
            if not (tensor.is_floating_point() and tensor.dtype.itemsize > 1):
                raise FormatError(f"the {entry.role} of {entry.name!r} is {entry.dtype}, expected F32 or the like")
            check_finite(tensor, f"the {entry.role} of {entry.name!r}")
        tables[entry.role][entry.name] = tensor
    return tables["extra"], tables["magnitude"], tables["bias"]


def _shapes(entry: ExtraEntry, site: Site) -> tuple[tuple[int, ...], ...]:
    """The shapes that a module's magnitude or bias may have; a magnitude may be one for each input as well."""
    by_input = [(1, site.width // prod(site.kernel))] if entry.role == "magnitude" else []
    return ((site.out,), *by_input)
