"""Dialects whose files are one safetensors file and at most a configuration, which may as well stay in memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adaptzip.checkpoints._base import WriteOptions, Writer
from adaptzip.core.adapter import Adapter
from adaptzip.files.tensors import Pending, write_tensors


@dataclass(frozen=True)
class Contents:
    """What is written.

    Attributes:
        tensors: by the keys of the file.
        header: the safetensors header of these.
        config: text of the configuration, or None where the dialect has none.
    """

    tensors: Mapping[str, Pending]
    header: bytes
    config: str | None = None


class SafetensorsWriter(Writer):
    """A dialect that writes factors into the first of its `files.weights`, and a configuration beside it."""

    @abstractmethod
    def contents(self, adapter: Adapter, options: WriteOptions) -> Contents:
        """What the files of `adapter`, without what is `lost`, hold.

        Raises:
            RefusedError: if the dialect cannot hold the adapter.
            UsageError: if it cannot be written with these options.
        """

    def write(self, adapter: Adapter, folder: Path, options: WriteOptions) -> None:
        found = self.contents(adapter, options)
        with (folder / self.files.weights[0]).open("wb") as handle:
            write_tensors(handle, found.tensors, found.header)
        if found.config is not None and self.files.config is not None:
            (folder / self.files.config).write_bytes(found.config.encode())
