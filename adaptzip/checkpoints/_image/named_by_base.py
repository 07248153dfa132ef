"""Modules whose names a file gives without dots, as the base model calls them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._image.names import COMPONENTS, DENOISERS, ORIGINAL
from adaptzip.errors import CheckpointError

_CHECKPOINTS = {
    "model.diffusion_model.": ORIGINAL,
    "cond_stage_model.transformer.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder",
    "text_encoders.clip_l.transformer.": "text_encoder",
}
"""What stands before a component's names in checkpoints that hold a whole pipeline in one file."""
_LEAVES = ("weight", "bias")


@dataclass(frozen=True)
class BaseNames:
    """A base model's modules by their paths with underscores for the dots.

    Attributes:
        components: by component; "" for a base that is one model alone.
    """

    components: Mapping[str, Mapping[str, Collection[str]]]

    def path(self, flat: str, source: Checkpoint, component: str) -> str | None:
        """The path of the module called `flat`, or None where the base has none.

        Args:
            flat: the path with underscores.
            source: the checkpoint, for messages.
            component: the one that it is in; "" for the denoiser.

        Raises:
            CheckpointError: if it is the name of two.
        """
        within = ("", component) if component else ("", *DENOISERS)
        found = {path for part in within for path in self.components.get(part, {}).get(flat, ())}
        if len(found) > 1:
            one, other, *_ = sorted(found)
            raise CheckpointError(
                f"{source.weights}: {flat} may be {one} or {other} of the base model",
                hint="leave `base=` out, or give the folder of the model that was trained",
            )
        return next(iter(found), None)


def base_names(source: Checkpoint) -> BaseNames:
    """The modules of the base model that was given, and those that are known without it.

    Raises:
        BaseModelError, RefusedError: if the folder holds no base model that can be read.
    """
    tensors = () if source.base is None else source.base.names
    known = [name for name, _, leaf in (tensor.rpartition(".") for tensor in tensors) if leaf in _LEAVES and name]
    found: dict[str, dict[str, set[str]]] = {}
    for component, path in map(_placed, (*source.modules, *known)):
        found.setdefault(component, {}).setdefault(path.replace(".", "_"), set()).add(path)
    return BaseNames(found)


def _placed(name: str) -> tuple[str, str]:
    """The component and the path that the name of a base's module means."""
    for begin, component in _CHECKPOINTS.items():
        if name.startswith(begin):
            return component, name.removeprefix(begin)
    first, _, rest = name.partition(".")
    return (first, rest) if first in COMPONENTS and rest else ("", name)
