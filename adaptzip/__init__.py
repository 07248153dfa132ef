"""adaptzip: small, portable and mergeable LoRA adapters.

The public functions are loaded on first use, so that importing the package costs neither torch nor time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adaptzip._version import __version__

if TYPE_CHECKING:
    from adaptzip.adz.container.reader import open_adz as open
    from adaptzip.bases.starts.callback import start_callback
    from adaptzip.bases.starts.files import read_start
    from adaptzip.bases.starts.found import FoundStart, KeptStart
    from adaptzip.bases.starts.recording import record_start
    from adaptzip.checkpoints import Dialect
    from adaptzip.core.adapter import Adapter, LoraFactors
    from adaptzip.core.budget import Budget
    from adaptzip.core.compressed import Compressed, Site, TensorSpec
    from adaptzip.core.function_method import FunctionMethod
    from adaptzip.core.limits import Limits
    from adaptzip.core.method import FitContext, Method, Profile
    from adaptzip.core.trainable import Trainable
    from adaptzip.distillation.distilling import distill
    from adaptzip.errors import AdaptzipError
    from adaptzip.fitting.banks import build_bank
    from adaptzip.fitting.choosing import plan
    from adaptzip.fitting.compression import compress
    from adaptzip.fleet.adding import add_to_store
    from adaptzip.fleet.checking import report_fleet, verify_fleet
    from adaptzip.fleet.engines import fleet_engine
    from adaptzip.fleet.jobs import build_fleet_bank, build_fleet_basis, compress_fleet
    from adaptzip.fleet.running import FleetResult
    from adaptzip.fleet.store.access import get_from_store
    from adaptzip.fleet.store.listing import list_store
    from adaptzip.fleet.store.tidying import remove_from_store, tidy_store
    from adaptzip.reports.benching import bench
    from adaptzip.reports.differing import diff
    from adaptzip.reports.evaluation import evaluate
    from adaptzip.reports.inspecting import inspect
    from adaptzip.reports.merged import check
    from adaptzip.reports.page import report
    from adaptzip.reports.publishing import publish
    from adaptzip.reports.verifying import verify
    from adaptzip.restoring.combining import combine
    from adaptzip.restoring.converting import convert
    from adaptzip.restoring.exporting import export
    from adaptzip.restoring.extracting import extract
    from adaptzip.restoring.live import load_into, merge_into
    from adaptzip.restoring.merging import merge
    from adaptzip.restoring.reading import read
    from adaptzip.restoring.reconstruction import reconstruct

__all__ = [
    "__version__",
    "Adapter",
    "AdaptzipError",
    "Budget",
    "Compressed",
    "Dialect",
    "FitContext",
    "FleetResult",
    "FoundStart",
    "FunctionMethod",
    "KeptStart",
    "Limits",
    "LoraFactors",
    "Method",
    "Profile",
    "Site",
    "TensorSpec",
    "Trainable",
    "add_to_store",
    "bench",
    "build_bank",
    "build_fleet_bank",
    "build_fleet_basis",
    "check",
    "combine",
    "compress",
    "compress_fleet",
    "convert",
    "diff",
    "distill",
    "evaluate",
    "export",
    "extract",
    "fleet_engine",
    "get_from_store",
    "inspect",
    "list_store",
    "load_into",
    "merge",
    "merge_into",
    "open",
    "plan",
    "publish",
    "read",
    "read_start",
    "reconstruct",
    "record_start",
    "remove_from_store",
    "report",
    "report_fleet",
    "start_callback",
    "tidy_store",
    "verify",
    "verify_fleet",
]

_HOMES = {
    "Adapter": ("adaptzip.core.adapter", "Adapter"),
    "AdaptzipError": ("adaptzip.errors", "AdaptzipError"),
    "Budget": ("adaptzip.core.budget", "Budget"),
    "Compressed": ("adaptzip.core.compressed", "Compressed"),
    "Dialect": ("adaptzip.checkpoints", "Dialect"),
    "FitContext": ("adaptzip.core.method", "FitContext"),
    "FleetResult": ("adaptzip.fleet.running", "FleetResult"),
    "FoundStart": ("adaptzip.bases.starts.found", "FoundStart"),
    "FunctionMethod": ("adaptzip.core.function_method", "FunctionMethod"),
    "KeptStart": ("adaptzip.bases.starts.found", "KeptStart"),
    "Limits": ("adaptzip.core.limits", "Limits"),
    "LoraFactors": ("adaptzip.core.adapter", "LoraFactors"),
    "Method": ("adaptzip.core.method", "Method"),
    "Profile": ("adaptzip.core.method", "Profile"),
    "Site": ("adaptzip.core.compressed", "Site"),
    "TensorSpec": ("adaptzip.core.compressed", "TensorSpec"),
    "Trainable": ("adaptzip.core.trainable", "Trainable"),
    "add_to_store": ("adaptzip.fleet.adding", "add_to_store"),
    "bench": ("adaptzip.reports.benching", "bench"),
    "build_bank": ("adaptzip.fitting.banks", "build_bank"),
    "build_fleet_bank": ("adaptzip.fleet.jobs", "build_fleet_bank"),
    "build_fleet_basis": ("adaptzip.fleet.jobs", "build_fleet_basis"),
    "check": ("adaptzip.reports.merged", "check"),
    "combine": ("adaptzip.restoring.combining", "combine"),
    "compress": ("adaptzip.fitting.compression", "compress"),
    "compress_fleet": ("adaptzip.fleet.jobs", "compress_fleet"),
    "diff": ("adaptzip.reports.differing", "diff"),
    "distill": ("adaptzip.distillation.distilling", "distill"),
    "evaluate": ("adaptzip.reports.evaluation", "evaluate"),
    "convert": ("adaptzip.restoring.converting", "convert"),
    "export": ("adaptzip.restoring.exporting", "export"),
    "extract": ("adaptzip.restoring.extracting", "extract"),
    "fleet_engine": ("adaptzip.fleet.engines", "fleet_engine"),
    "get_from_store": ("adaptzip.fleet.store.access", "get_from_store"),
    "inspect": ("adaptzip.reports.inspecting", "inspect"),
    "list_store": ("adaptzip.fleet.store.listing", "list_store"),
    "load_into": ("adaptzip.restoring.live", "load_into"),
    "merge_into": ("adaptzip.restoring.live", "merge_into"),
    "merge": ("adaptzip.restoring.merging", "merge"),
    "open": ("adaptzip.adz.container.reader", "open_adz"),
    "publish": ("adaptzip.reports.publishing", "publish"),
    "plan": ("adaptzip.fitting.choosing", "plan"),
    "read": ("adaptzip.restoring.reading", "read"),
    "read_start": ("adaptzip.bases.starts.files", "read_start"),
    "reconstruct": ("adaptzip.restoring.reconstruction", "reconstruct"),
    "record_start": ("adaptzip.bases.starts.recording", "record_start"),
    "remove_from_store": ("adaptzip.fleet.store.tidying", "remove_from_store"),
    "report": ("adaptzip.reports.page", "report"),
    "report_fleet": ("adaptzip.fleet.checking", "report_fleet"),
    "start_callback": ("adaptzip.bases.starts.callback", "start_callback"),
    "tidy_store": ("adaptzip.fleet.store.tidying", "tidy_store"),
    "verify": ("adaptzip.reports.verifying", "verify"),
    "verify_fleet": ("adaptzip.fleet.checking", "verify_fleet"),
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
    return sorted(__all__)
