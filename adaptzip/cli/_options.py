"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Source = Annotated[
    Path,
    typer.Argument(help="A PEFT folder, its weight file, or a .adz file.", metavar="SRC", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace an existing output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be written, and write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]
Device = Annotated[
    str, typer.Option(help="Where to compute: auto (CUDA when present), cpu, cuda or cuda:N.", metavar="NAME")
]
Alpha = Annotated[
    float | None,
    typer.Option(
        help="lora_alpha, for a weight file without adapter_config.json.",
        metavar="NUMBER",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="The adapter's configuration file, where it does not lie beside the weights.",
        metavar="FILE",
        show_default=False,
    ),
]
CheckError = Annotated[
    float | None,
    typer.Option(
        "--max-error",
        help="Exit with 1 if the relative error over all modules is larger.",
        metavar="X",
        min=0.0,
        show_default=False,
    ),
]
NeededBase = Annotated[
    Path | None,
    typer.Option(
        "--base",
        help="The folder of the base model, for a .adz whose basis is that of its weights.",
        metavar="DIR",
        show_default=False,
    ),
]
NeededBasis = Annotated[
    Path | None,
    typer.Option(
        "--basis", help="The basis, for a .adz that was compressed with one.", metavar="FILE", show_default=False
    ),
]
WeighingTexts = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        help="Texts (.jsonl or .txt) that weigh the error by what --base feeds each module.",
        metavar="FILE",
        show_default=False,
    ),
]
Costs = Annotated[bool, typer.Option("--costs/--no-costs", help="Say what each method would roughly cost.")]
