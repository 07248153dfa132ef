"""Recording the start of an adapter that was just made, so that nobody has to look for it later."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from adaptzip.bases.starts.candidates import candidates
from adaptzip.bases.starts.files import write_start
from adaptzip.bases.starts.finding import find_start
from adaptzip.bases.starts.found import POPULAR, FoundStart, KeptStart
from adaptzip.bases.starts.streams import CHUNK
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.calling import public
from adaptzip.errors import RefusedError, UsageError

_KEY = re.compile(r"^(?:base_model\.model\.)?(?P<name>.+?)\.lora_A(?:\.(?P<adapter>[^.]+?))??(?:\.weight)?$")
_EXACT = 1 - 1e-4
"""Half precision rounds uniform numbers by 2^-9 of the largest at most: 1e-6 of their energy; a stranger has none."""
_DRAWS = 1 << 24


@public
def record_start(
    model: torch.nn.Module,
    folder: str | Path | None = None,
    *,
    adapter: str | None = None,
    seeds: Sequence[int] = (),
    force: bool = False,
) -> FoundStart | KeptStart:
    """The random numbers that an adapter in memory begins with, to be called before it is trained.

    They are looked for in the streams of torch's own seed and of popular ones; where that does not give every A
    exactly, as on a GPU, the A themselves are kept. `compress` takes either, and saves what they tell.

    Args:
        model: a PEFT model, or any whose modules have `lora_A` and `lora_B`.
        folder: where to write `adapter_start.json`, and `adapter_start.safetensors` if the A are kept; made if missing.
            None writes nothing.
        adapter: name of the adapter in the model, if it has several.
        seeds: others that torch may have been seeded with; making a Trainer, for one, seeds it anew.
        force: replace these files.

    Raises:
        UsageError: if the model has no such adapter, or several.
        RefusedError: if it is trained already, or its A are not in this process.
        OutputError: if a file exists without `force`, or cannot be written.

    Example:
        >>> from peft import LoraConfig, get_peft_model
        >>> _ = torch.manual_seed(42)
        >>> base = torch.nn.Sequential(torch.nn.Linear(64, 96))
        >>> model = get_peft_model(base, LoraConfig(target_modules=["0"]))
        >>> start = adaptzip.record_start(model, "run")
        >>> start.generator, start.seed
        ('uniform', 42)
        >>> adaptzip.read_start("run") == start
        True
    """
    modules = _modules(model, adapter)
    start: FoundStart | KeptStart | None = _exactly(modules, (torch.initial_seed(), *seeds))
    if start is None:
        _refuse_trained(modules)
        start = KeptStart({name: _halved(one.A) for name, one in sorted(modules.items())})
    if folder is not None:
        write_start(start, folder, force)
    return start


def _exactly(modules: Mapping[str, LoraFactors], own: Sequence[int]) -> FoundStart | None:
    """The start, if it is that of every module which is large enough to have one."""
    wanted = {name for one in candidates(modules) for name in one.names}
    own = tuple(dict.fromkeys(seed % 2**64 for seed in own))
    for seeds, draws in ((own, _DRAWS), (POPULAR, CHUNK)):
        found = find_start(modules, seeds, draws)
        if found is not None and found.places.keys() == wanted and min(found.correlations.values()) > _EXACT:
            return FoundStart(found.generator, found.seed, found.places, dict.fromkeys(found.places, 1.0))
    return None


def _modules(model: torch.nn.Module, adapter: str | None) -> dict[str, LoraFactors]:
    """A and B by the modules' names in the base model; a convolution's flattened."""
    tensors = dict(model.named_parameters())
    found: dict[str, dict[str, LoraFactors]] = {}
    for key, A in tensors.items():
        B = tensors.get(key.replace(".lora_A", ".lora_B"))
        if (match := _KEY.match(key)) is not None and B is not None and A.ndim >= 2:
            factors = _factors(match["name"], A, B)
            found.setdefault(match["adapter"] or "", {})[match["name"]] = factors
    if adapter is not None and adapter in found:
        return found[adapter]
    if not found or adapter is not None:
        what = "adapter" if adapter is None else f"adapter {adapter!r}"
        raise UsageError(
            f"the model has no {what} with lora_A and lora_B", hint="give the model that get_peft_model made"
        )
    if len(found) > 1:
        raise UsageError(f"the model has the adapters {', '.join(sorted(found))}", hint="name one: adapter=...")
    return next(iter(found.values()))


def _factors(name: str, A: Tensor, B: Tensor) -> LoraFactors:
    if A.is_meta or not A.numel() or not B.numel():
        raise RefusedError(
            f"the A of module {name} is not in this process, so its start can't be seen",
            hint="call record_start before the model is sharded",
        )
    return LoraFactors(A.detach().cpu().flatten(1), B.detach().cpu().flatten(1))


def _refuse_trained(modules: Mapping[str, LoraFactors]) -> None:
    moved = [name for name, one in sorted(modules.items()) if bool(one.B.any())]
    if moved:
        raise RefusedError(
            f"the B of module {moved[0]} is not zero, so that the adapter no longer is as it began",
            hint="call record_start when the adapter was just made",
        )


def _halved(A: Tensor) -> Tensor:
    largest = A.float().abs().amax(dim=1)
    return A.to(torch.float16 if bool(((largest > 2.0**-10) & (largest < 2.0**15)).all()) else torch.float32)
