"""Where the speed benchmark's material lies: adapters, archives and tensors, each made once, in memory where it can."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.speed_runs import Side, together
from benchmarks.speed_tasks import weights

FIXTURE = Path(__file__).parent.parent / "fixtures" / "lists-minilm-r16"
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Shape:
    """Which adapter: of a 7B model with some layers, or of SDXL's UNet where there are none."""

    layers: int | None

    @property
    def name(self) -> str:
        return "SDXL" if self.layers is None else f"{self.layers} layer{'s' * (self.layers != 1)}"


@dataclass(frozen=True)
class Shop:
    """Folders of one run, and how it measures.

    Attributes:
        memory: a folder in memory, where the system has one, so that no disk is measured.
        disk: a folder for temporary files.
        pairs: how often each side runs.
        quick: whether the largest sizes are left out.
    """

    memory: Path
    disk: Path
    pairs: int
    quick: bool

    def adapter(self, shape: Shape) -> Path:
        """The folder of an adapter."""
        made = self.memory / shape.name.replace(" ", "-")
        if not made.exists():
            words = ["sdxl_adapter"] if shape.layers is None else ["shaped_adapter", "--layers", str(shape.layers)]
            subprocess.run([sys.executable, "-m", f"benchmarks.{words[0]}", str(made), *words[1:]], check=True)
        return made

    def size(self, shape: Shape) -> int:
        """Bytes of the adapter's weight file."""
        return weights(self.adapter(shape)).stat().st_size

    def archive(self, shape: Shape) -> Path:
        """The adapter, compressed with the default effort."""
        return self.archived(self.adapter(shape))

    def archived(self, adapter: Path) -> Path:
        return self._made(adapter.with_suffix(".adz"), "compress", source=str(adapter), max_error=0.1)

    def tensors(self, shape: Shape) -> Path:
        """A file of safetensors with exactly what the archive decodes to."""
        archive = self.archive(shape)
        return self._made(archive.with_suffix(".safetensors"), "keep_tensors", archive=str(archive))

    def exported(self, shape: Shape) -> Path:
        """The folder that the archive is exported to."""
        archive = self.archive(shape)
        return self._made(archive.with_suffix(".exported"), "export", archive=str(archive))

    def square(self, modules: int, width: int, rank: int) -> Path:
        """A folder of an adapter of square modules."""
        made = self.memory / f"{modules}x{width}x{rank}"
        return self._made(made, "make_adapter", modules=modules, width=width, rank=rank)

    def prepare(self, shape: Shape | None) -> None:
        """Compile kernels and make an adapter's files, so that no row pays for them."""
        self._made(self.disk / "warm.adz", "warm_kernels", source=str(FIXTURE))
        if shape is not None:
            self.tensors(shape)
            self.exported(shape)

    def _made(self, output: Path, task: str, **options: Any) -> Path:
        if not output.exists():
            together([Side(f"make {output.name}", task, {**options, "output": str(output)})], 0)
        return output


@contextmanager
def opened(pairs: int, quick: bool) -> Iterator[Shop]:
    """A shop whose folders are taken away at the end."""
    parent = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=parent) as memory, tempfile.TemporaryDirectory() as disk:
        yield Shop(Path(memory), Path(disk), pairs, quick)
