"""Several sources on the command line, each with a weight, and how they are made one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adaptzip.core.combinations import Combination as Combinations
from adaptzip.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from adaptzip.core.adapter import Adapter

Sources = Annotated[
    list[str],
    typer.Argument(
        help="Adapters of any dialect, or .adz files; a number after a colon is what an update is multiplied by.",
        metavar="SRC[:WEIGHT]...",
        show_default=False,
    ),
]
Combination = Annotated[
    Combinations,
    typer.Option("--method", help="How several adapters become one, as PEFT's add_weighted_adapter; cat is their sum."),
]
Rank = Annotated[
    int | None,
    typer.Option(
        "--rank",
        help="With svd and methods that end with it, the rank of each module.  [default: the largest]",
        metavar="NUMBER",
        show_default=False,
    ),
]
Density = Annotated[
    float | None,
    typer.Option(
        help="Of methods that prune, the share of numbers that is kept.", metavar="NUMBER", show_default=False
    ),
]
Majority = Annotated[
    Literal["total", "frequency"], typer.Option(help="Of ties, whose sign wins: the larger sum's, or of more adapters.")
]
Seed = Annotated[int, typer.Option(help="Of what dare prunes by chance.", metavar="NUMBER")]


def weighted(words: list[str]) -> tuple[list[Path], list[float]]:
    """The paths and the weights that words as `a.adz:0.7` mean; what exists as it is written has the weight 1.

    Raises:
        UsageError: if a weight is no finite number.
    """
    pairs = [_weighted(word) for word in words]
    return [path for path, _ in pairs], [weight for _, weight in pairs]


def _weighted(word: str) -> tuple[Path, float]:
    path, colon, number = word.rpartition(":")
    if not colon or Path(word).exists() or not Path(path).exists():
        return Path(word), 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UsageError(f"{word}: {number!r} is no weight", hint=f"write a number after the colon: {path}:0.5")
    return Path(path), weight


def one_of(paths: list[Path], weights: list[float], how: dict[str, Any], reading: dict[str, Any]) -> Adapter:
    """The adapter that several are together; one alone is as it is, without its weight.

    Raises:
        UsageError: if an option is for several adapters and there is one, or the other way round.
        CheckpointError, FormatError, RefusedError: as `combine`.
    """
    from adaptzip.restoring.combining import combine
    from adaptzip.restoring.reading import read

    if len(paths) == 1:
        if how["method"] != "cat" or how["rank"] is not None or how["density"] is not None:
            raise UsageError("--method, --rank and --density are for several adapters", hint="leave them out")
        return read(paths[0], **reading)
    if reading.get("config") is not None:
        raise UsageError("--config is the configuration of one adapter", hint="put each one beside its weights")
    return combine(paths, weights, **how, **reading)


def check_updates_alone(adapter: Adapter) -> None:
    """Refuse what cannot be taken away from a model: what replaced tensors of its base.

    Raises:
        RefusedError: naming a tensor.
    """
    effects = adapter.resolved.extras
    for key in adapter.extras:
        if effects[key].role not in ("ignore", "original"):
            raise RefusedError(
                f"{key} cannot be taken away: what it stood in the place of is in the base model alone",
                hint="--subtract is for adapters of updates alone",
            )
    for name, factors in adapter.modules.items():
        if factors.magnitude is not None:
            raise RefusedError(
                f"the update of module {name} cannot be taken away: with a DoRA magnitude it is no sum",
                hint="--subtract is for adapters of updates alone",
            )


def with_tokenizer(paths: list[Path], base: Path) -> Path:
    """The first of the sources that brings a whole tokenizer, else the first of all."""
    from adaptzip.restoring.merging.tokenizers import adapter_folder, choose_tokenizer

    if base.is_file():
        return paths[0]
    brings = (path for path in paths if choose_tokenizer(base, adapter_folder(path)).origin == "adapter")
    return next(brings, paths[0])
