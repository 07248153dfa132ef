"""What the processes of the speed benchmark do: each task imports and opens what it needs, and gives its work."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Task:
    """The work that is timed, and what is told of its result afterwards."""

    work: Callable[[], Any]
    tell: Callable[[Any], Mapping[str, float]] = lambda _: {}


def weights(folder: str | Path) -> Path:
    """An adapter's weight file."""
    return next(Path(folder).glob("*.safetensors"))


def compress(source: str, output: str, *, device: str = "cpu", **options: Any) -> Task:
    import adaptzip

    work = adaptzip.compress
    return Task(
        lambda: work(source, output, device=device, force=True, **options),
        lambda made: {"bytes": Path(output).stat().st_size, "relative_error": made.provenance.relative_error},
    )


def zstd(source: str, output: str) -> Task:
    import zstandard

    def work() -> None:
        Path(output).write_bytes(zstandard.ZstdCompressor(level=19).compress(weights(source).read_bytes()))

    return Task(work, lambda _: {"bytes": Path(output).stat().st_size})


def decode(archive: str, dtype: str | None = None, device: str = "cpu") -> Task:
    import torch

    import adaptzip

    wanted = None if dtype is None else getattr(torch, dtype)
    read, work = adaptzip.open, adaptzip.reconstruct

    def decoded() -> Any:
        adapter = work(read(archive), dtype=wanted, device=device)
        if device != "cpu":
            torch.cuda.synchronize()
        return adapter

    return Task(decoded, lambda adapter: {"numbers": sum(t.numel() for t in _tensors(adapter).values())})


def _tensors(adapter: Any) -> dict[str, torch.Tensor]:
    return {f"{name}.{part}": getattr(module, part) for name, module in adapter.modules.items() for part in "AB"}


def keep_tensors(archive: str, output: str) -> Task:
    """Write what an archive decodes to, as safetensors."""
    from safetensors.torch import save_file

    import adaptzip

    return Task(lambda: save_file(_tensors(adaptzip.reconstruct(archive)), output))


def save_again(source: str, output: str) -> Task:
    from safetensors.torch import load_file, save_file

    return Task(lambda: save_file(load_file(source), output))


def export(archive: str, output: str) -> Task:
    import adaptzip

    work = adaptzip.export
    return Task(lambda: work(archive, output, force=True))


def rewrite(source: str, output: str, durable: bool = False) -> Task:
    """Read and write a folder with safetensors, as one who changes an adapter does."""
    from safetensors.torch import load_file, save_file

    def work() -> None:
        target, file, config = _fresh(Path(output)), weights(source), Path(source) / CONFIG
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        save_file(tensors, target / file.name, metadata={"format": "pt"})
        if config.exists():
            shutil.copyfile(config, target / CONFIG)
        if durable:
            _sync(target)

    return Task(work)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def one_module(archive: str, names: Sequence[str]) -> Task:
    """Decode one module of an opened archive, another one each time."""
    import adaptzip

    opened, turn, work = adaptzip.open(archive), itertools.cycle(names), adaptzip.reconstruct
    return Task(lambda: work(opened, modules=[next(turn)]))


def two_tensors(source: str, names: Sequence[str]) -> Task:
    """Copy the same module's tensors out of an opened safetensors file."""
    from safetensors import safe_open

    opened: Any = safe_open(source, "pt")
    turn = itertools.cycle(names)

    def work() -> list[torch.Tensor]:
        name = next(turn)
        return [opened.get_tensor(f"{name}.{part}").clone() for part in "AB"]

    return Task(work)


def bank(source: str) -> Task:
    """Fit the bank of vectors of `python -m benchmarks.banks --only large`."""
    import adaptzip
    from adaptzip.core.method import FitContext
    from adaptzip.methods.vblora import METHOD
    from benchmarks.banks import LARGE

    modules = adaptzip.read(source).modules
    return Task(lambda: METHOD.prepare(modules, LARGE, FitContext()))


def make_adapter(output: str, modules: int, width: int, rank: int) -> Task:
    """Write a PEFT folder of square modules of one shape, with falling spectra."""
    import json

    import torch
    from safetensors.torch import save_file

    def work() -> None:
        generator = torch.Generator().manual_seed(0)
        fall = torch.arange(1, rank + 1).float() ** -1
        A = torch.randn(modules, rank, width, generator=generator)
        B = torch.randn(modules, width, rank, generator=generator) * fall
        stem = "base_model.model.layers.{}.q_proj.lora_{}.weight"
        tensors = {stem.format(i, part): t[i].clone() for i in range(modules) for part, t in (("A", A), ("B", B))}
        folder = _fresh(Path(output))
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj"]}
        (folder / CONFIG).write_text(json.dumps(config))

    return Task(work)


def warm_kernels(source: str, output: str) -> Task:
    """Have every kernel compiled and kept on disk, so that no run compiles one."""
    import torch

    import adaptzip

    requests: tuple[dict[str, Any], ...] = ({"effort": "fast"}, {"effort": "best"}, {"to": "vblora", "budget": "20x"})

    def work() -> None:
        for options in requests:
            adaptzip.compress(source, output, device="cpu", force=True, **options)
            for dtype in (None, torch.float16):
                adaptzip.reconstruct(output, dtype=dtype)

    return Task(work)


TASKS: dict[str, Callable[..., Task]] = {
    made.__name__: made
    for made in (
        compress, zstd, decode, keep_tensors, save_again, export, rewrite, one_module, two_tensors, bank, make_adapter,
        warm_kernels,
    )
}  # fmt: skip
