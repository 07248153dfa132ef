"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from adaptzip.cli import _completing as completing
from adaptzip.core import effort

Extras = Literal["lossless", "float16", "bfloat16", "int8"]
Allocation = Literal["uniform", "energy", "increlora"]
Kind = Literal["causal", "classifier", "multilabel", "scores", "tokens", "encoder", "seq2seq"]
Scored = Literal["all", "completion"]


To = Annotated[
    str | None,
    typer.Option(
        "--to",
        help="The method, see `adaptzip methods`, or auto for the best of all.  [default: svd]",
        metavar="METHOD",
        autocompletion=completing.targets,
        show_default=False,
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        help="A method to look at; may be repeated.  [default: all]",
        metavar="METHOD",
        autocompletion=completing.method_names,
        show_default=False,
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        "--budget",
        "-b",
        help="Upper limit: 50k or 1.2M stored parameters, 64KiB or 2MB on disk, 2% or 100x of the source.",
        metavar="SIZE",
        show_default=False,
    ),
]
Parameters = Annotated[
    str | None,
    typer.Option(
        "--params",
        help="Upper limit of stored parameters, such as 50000 or 50k: --budget in one unit.",
        metavar="N",
        show_default=False,
    ),
]
Bytes = Annotated[
    str | None,
    typer.Option(
        "--bytes",
        help="Upper limit of bytes on disk, such as 65536 or 64KiB: --budget in one unit.",
        metavar="N",
        show_default=False,
    ),
]
MaxError = Annotated[
    float | None,
    typer.Option(
        help="Upper limit of the relative error |dW - dW'| / |dW|; 0.1 where no budget is given.",
        metavar="X",
        show_default=False,
    ),
]
KeepExtras = Annotated[Extras, typer.Option(help="How to keep what is no factor: heads, biases, embeddings.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="An option of the method; see `adaptzip methods METHOD`.",
        metavar="KEY=VALUE",
        autocompletion=completing.settings,
        show_default=False,
    ),
]
TrainingSeed = Annotated[
    int,
    typer.Option(help="Equal input, seed and number of threads give equal bytes on one machine.", metavar="NUMBER"),
]
Seed = Annotated[int, typer.Option(help="Equal input and seed give equal bytes on one machine.", metavar="NUMBER")]
Base = Annotated[
    Path | None,
    typer.Option(
        help="The folder of the base model, for a basis of its weights and for --calibration.",
        metavar="DIR",
        show_default=False,
    ),
]
TheBase = Annotated[
    Path, typer.Option("--base", help="The folder of the base model.", metavar="DIR", show_default=False)
]
TextField = Annotated[
    str | None,
    typer.Option(
        help="Where a row of the data has its text, words or messages.  [default: one of the usual names]",
        metavar="NAME",
        show_default=False,
    ),
]
PairField = Annotated[
    str | None,
    typer.Option(
        "--text-pair-field",
        help="Where a row has the second text of a pair.  [default: as the usual pairs are named]",
        metavar="NAME",
        show_default=False,
    ),
]
CompletionField = Annotated[
    str | None,
    typer.Option(
        help="Where a row has what completes the text, or the messages.  [default: completion, beside a prompt]",
        metavar="NAME",
        show_default=False,
    ),
]
Score = Annotated[
    Scored | None,
    typer.Option(
        help="What counts of a prompt with its completion.  [default: the completion]",
        show_default=False,
    ),
]
LabelField = Annotated[
    str | None,
    typer.Option(
        help="Where a row has its label: a class, a number, a list of these, or for a seq2seq model the target text.",
        metavar="NAME",
        show_default=False,
    ),
]
Task = Annotated[
    Kind | None, typer.Option(help="What the model is for.  [default: as the adapter says]", show_default=False)
]
Basis = Annotated[
    Path | None,
    typer.Option(
        help="A basis, for methods that need one, and for svd; see `adaptzip basis`.",
        metavar="FILE",
        show_default=False,
    ),
]
EmbedBasis = Annotated[
    bool, typer.Option("--embed-basis", help="Store the basis in the file, so that it needs nothing else.")
]
Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        help="Where A began, which svd need not store then: auto, none, base, SEED[:OFFSET], or the path of another "
        "adapter, a basis or a recorded start.  [default: auto]",
        metavar="START",
        show_default=False,
    ),
]
SearchStarts = Annotated[
    bool,
    typer.Option(
        "--search-starts",
        help="Where A's start is not found otherwise, try all 2^32 seeds, which takes hours on a "
        "CPU. Ctrl-C leaves FILE.search, and the same command goes on.",
    ),
]
Effort = Annotated[
    effort.Effort | None,
    typer.Option(
        show_default=False,
        help="How long to look for a smaller file; default if left out. fast: for no start, without which a file may "
        "be half as large again, and to 1 to 3 %. best: closer, and further for a start; half a minute may save 0.1 %.",
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        help="Texts, as for `eval --data`: errors are weighed by what --base feeds each module.",
        metavar="FILE",
        show_default=False,
    ),
]
Allocate = Annotated[
    Allocation | None,
    typer.Option(help="How to share ranks out over modules.  [default: left to the method]", show_default=False),
]

Source = Annotated[
    Path,
    typer.Argument(
        help="An adapter of any dialect, as a folder, a weight file or a repository of the Hub, or a .adz file.",
        metavar="SRC",
        show_default=False,
    ),
]
Sources = Annotated[
    list[Path],
    typer.Argument(
        help="Adapters of any dialect, as folders, weight files or repositories of the Hub, .adz files, or patterns "
        "such as 'adapters/*'.",
        metavar="SRC...",
        show_default=False,
    ),
]
OutputDir = Annotated[
    Path | None,
    typer.Option(
        "--output-dir",
        help="A folder for the outputs of several sources, each under its source's name; what earlier runs made there "
        "is left where options and content are the same, and else made anew.",
        metavar="DIR",
        show_default=False,
    ),
]
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", help="Processes at once, for several sources.", metavar="NUMBER", min=1)
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
AllowLarge = Annotated[
    bool,
    typer.Option(
        "--allow-large",
        help="Read a .adz whatever it makes of itself: by default what a small file may become is limited.",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="The dialect to read it as, where its keys tell another or more than one.",
        metavar="NAME",
        autocompletion=completing.read_dialects,
        show_default=False,
    ),
]
As = Annotated[
    str | None,
    typer.Option(
        "--as",
        help="The dialect to write, or peft-portable.  [default: the one that the adapter came in; where that is not "
        "written, kohya for image models, else peft]",
        metavar="NAME",
        autocompletion=completing.written_dialects,
        show_default=False,
    ),
]
FactorDtype = Annotated[
    Literal["float32", "float16", "bfloat16", "q8_0"] | None,
    typer.Option(
        "--dtype",
        help="dtype of the factors; q8_0 with --as gguf alone.  [default: the adapter's own; float32 in the portable "
        "profile and in dialects of a method's own tensors]",
        show_default=False,
    ),
]
DropExtras = Annotated[
    bool,
    typer.Option(
        "--drop-extras",
        help="Leave out what the dialect, or the portable profile, cannot hold, and list it, instead of refusing.",
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
        help="The folder of the base model, where the adapter can't be read or written without it.",
        metavar="DIR",
        show_default=False,
    ),
]
NeededBasis = Annotated[
    Path | None,
    typer.Option(
        "--basis",
        help="The basis, other adapter or kept start that a .adz was compressed with, or a store that has it.",
        metavar="PATH",
        show_default=False,
    ),
]
BaseName = Annotated[
    str | None,
    typer.Option(
        "--base-name",
        help="What to call the base model in what is written.  [default: as the adapter does]",
        metavar="NAME",
        show_default=False,
    ),
]
WeighingTexts = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        help="Texts, as for `eval --data`, that weigh the error by what --base feeds each module.",
        metavar="FILE",
        show_default=False,
    ),
]
Costs = Annotated[bool, typer.Option("--costs/--no-costs", help="Say what each method would roughly cost.")]
