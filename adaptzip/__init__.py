"""adaptzip: small, portable and mergeable LoRA adapters.

The public functions are loaded on first use, so that importing the package costs neither torch nor time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptzip.adapter import Adapter, LoraFactors
    from adaptzip.budget import Budget
    from adaptzip.compressed import Compressed
    from adaptzip.compression import compress
    from adaptzip.container.reader import open_adz as open
    from adaptzip.distillation.distilling import distill
    from adaptzip.distillation.evaluation import evaluate
    from adaptzip.errors import AdaptzipError
    from adaptzip.exporting import export
    from adaptzip.merging import merge
    from adaptzip.planning import plan
    from adaptzip.reconstruction import reconstruct
    from adaptzip.sources import read

__version__ = "0.1.0"

__all__ = [
    "Adapter",
    "AdaptzipError",
    "Budget",
    "Compressed",
    "LoraFactors",
    "compress",
    "distill",
    "evaluate",
    "export",
    "merge",
    "open",
    "plan",
    "read",
    "reconstruct",
]

_HOMES = {
    "Adapter": ("adaptzip.adapter", "Adapter"),
    "AdaptzipError": ("adaptzip.errors", "AdaptzipError"),
    "Budget": ("adaptzip.budget", "Budget"),
    "Compressed": ("adaptzip.compressed", "Compressed"),
    "LoraFactors": ("adaptzip.adapter", "LoraFactors"),
    "compress": ("adaptzip.compression", "compress"),
    "distill": ("adaptzip.distillation.distilling", "distill"),
    "evaluate": ("adaptzip.distillation.evaluation", "evaluate"),
    "export": ("adaptzip.exporting", "export"),
    "merge": ("adaptzip.merging", "merge"),
    "open": ("adaptzip.container.reader", "open_adz"),
    "plan": ("adaptzip.planning", "plan"),
    "read": ("adaptzip.sources", "read"),
    "reconstruct": ("adaptzip.reconstruction", "reconstruct"),
}


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _HOMES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
