"""Names that carry what a wrapper around the model put into them, as training tools do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from adaptzip.errors import CheckpointError

WRAPPERS = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_fpw_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning Fabric",
    "_wrapped_module": "a wrapper",
    "module": "DataParallel or DeepSpeed",
    "base_model": "PEFT",
    "base_layer": "PEFT",
    "original_module": "PEFT",
    "modules_to_save": "PEFT",
    "default": "PEFT",
}
"""Parts of a name that no model has by itself, and whose they are."""


def refuse_wrapped(path: Path, modules: Sequence[str], fits: Callable[[Sequence[str]], bool]) -> None:
    """Raise if the base model in `path` stores all modules once the wrappers' parts are taken out of their names.

    Args:
        path: the base model's folder, for the message.
        modules: the adapter's modules.
        fits: whether the base stores modules of these names.

    Raises:
        CheckpointError: if so; it names the part and the module.
    """
    wrapped = [(module, part) for module in modules for part in module.split(".") if _is_wrapper(part)]
    if not wrapped or not fits([_bare(module) for module in modules]):
        return
    module, part = wrapped[0]
    raise CheckpointError(
        f"the adapter's names carry the {part!r} of {WRAPPERS.get(part, 'a wrapper')}: {module}, which {path} stores "
        f"as {_bare(module)}",
        hint=f"take {part!r} out of the adapter's keys, or save it from the unwrapped model with save_pretrained",
    )


def _is_wrapper(part: str) -> bool:
    return part in WRAPPERS or part.startswith("_")


def _bare(module: str) -> str:
    return ".".join(part for part in module.split(".") if not _is_wrapper(part))
