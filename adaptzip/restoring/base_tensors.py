"""The base model's tensors, as a dialect that cannot read its files without them asks for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

from torch import Tensor

from adaptzip.checkpoints._image.names import COMPONENTS
from adaptzip.models.folder import BaseModel
from adaptzip.models.names import Renaming, locate_tensor
from adaptzip.models.pipelines import component_folders, is_pipeline
from adaptzip.models.renaming import find_renaming
from adaptzip.models.single import is_single_file, open_file


@dataclass(frozen=True, eq=False)
class StoredBase:
    """A base model's folder, opened when it is first asked for something.

    Attributes:
        path: the folder.
        opened: gives the base model; the same one each time.
        renaming: the change of prefix from the names that are asked for to the base's own.
    """

    path: Path
    opened: Callable[[], BaseModel]
    renaming: Renaming = field(default_factory=Renaming)

    @property
    def names(self) -> Collection[str]:
        """As `BaseTensors.names`."""
        if not is_pipeline(self.path):
            return self.opened().tensors.keys()
        folders = component_folders(self.path)
        models = {name: BaseModel.open(folders[name]) for name in COMPONENTS if name in folders}
        return [f"{part}.{name}" for part, model in models.items() for name in model.tensors]

    def named_by(self, modules: Sequence[str]) -> StoredBase:
        """As `BaseTensors.named_by`."""
        return replace(self, renaming=find_renaming(self.opened(), modules))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """As `BaseTensors.shape`."""
        stored = locate_tensor(self.opened(), name, self.renaming)
        return None if stored is None else self.opened().stored(stored).shape

    def read(self, name: str) -> Tensor | None:
        """As `BaseTensors.read`."""
        stored = locate_tensor(self.opened(), name, self.renaming)
        return None if stored is None else self.opened().read(stored)


def stored_base(path: str | Path) -> StoredBase:
    """The base model in the folder or the one file `path`, which is not opened yet."""
    return StoredBase(Path(path), cache(partial(open_file if is_single_file(path) else BaseModel.open, path)))
