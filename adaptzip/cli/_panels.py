"""Commands: their help in panels, in which options that belong together stand together, in one order for all."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

from adaptzip.cli._flags import in_words_of

_PANELS = {
    "Size and error": (
        "--to", "--budget", "--params", "--bytes", "--max-error", "--lossless", "--rank", "--extras", "--set",
        "--allocate", "--effort", "--plan",
    ),
    "Base model, basis and start": (
        "--base", "--basis", "--embed-basis", "--start", "--search-starts", "--calibration", "--modules-of",
        "--gradient", "--share",
    ),
    "Texts": (
        "--teacher", "--data", "--text-field", "--text-pair-field", "--completion-field", "--label-field", "--score",
        "--task", "--metric", "--held-out", "--max-tokens", "--packed",
    ),
    "Training": (
        "--steps", "--minutes", "--batch-size", "--micro-batch", "--rate", "--max-time", "--kl", "--hidden",
        "--modules", "--labels", "--temperature", "--resume",
    ),
    "Workers": (),
    "Several adapters": ("--method", "--density", "--majority", "--scale", "--subtract"),
    "Reading": ("--alpha", "--config", "--from", "--allow-large"),
    "Writing": (
        "--output", "--as", "--portable", "--dtype", "--drop-extras", "--base-name", "--plot", "--force", "--dry-run",
    ),
    "Everything else": (),
}  # fmt: skip
"""Where options stand, by what they are about; those of no panel stand in the last."""
_WORKERS = ("--engine", "--jobs", "--rank", "--world-size", "--address", "--wait")
"""Those of commands that several machines may share, where a rank is a worker's."""
_FEW = 14
"""So many options and fewer stand in one list."""


class PanelledCommand(TyperCommand):
    """A command whose help has panels where it has many options, and which speaks of these."""

    def invoke(self, ctx: Any) -> Any:
        """Run it; what the library says meanwhile is said in its options."""
        with in_words_of(ctx):
            return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write them, behind the arguments."""
        records: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{panel: [] for panel in _PANELS}}
        options = [param for param in self.get_params(ctx) if param.param_type_name == "option"]
        shared = any("--world-size" in param.opts for param in options)
        for param in self.get_params(ctx):
            found = param.get_help_record(ctx)
            if found is not None:
                records[_panel_of(param, shared=shared) if len(options) > _FEW else _list_of(param)].append(found)
        for title, rows in records.items():
            if rows:
                with formatter.section(title if len(options) > _FEW or title == "Arguments" else "Options"):
                    formatter.write_dl(rows)


def _panel_of(param: Any, *, shared: bool) -> str:
    if param.param_type_name != "option":
        return "Arguments"
    if shared and not {*_WORKERS}.isdisjoint(param.opts):
        return "Workers"
    return next((panel for panel, names in _PANELS.items() if not {*names}.isdisjoint(param.opts)), _list_of(param))


def _list_of(param: Any) -> str:
    return "Arguments" if param.param_type_name != "option" else "Everything else"
