"""Merging an adapter into a base model of any form: a folder, a pipeline's, a file in original names, or GGUF."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.calling import public
from adaptzip.core.compressed import Compressed
from adaptzip.core.limits import Limits
from adaptzip.core.linalg import choose_device
from adaptzip.core.progress import Progress
from adaptzip.files.inputs import check_apart
from adaptzip.models.hub import base_path
from adaptzip.restoring.merging import folders
from adaptzip.restoring.merging.gguf import merging as gguf
from adaptzip.restoring.merging.image import files, pipelines
from adaptzip.restoring.merging.provenance import Origins, origins_of
from adaptzip.restoring.merging.quantised_bases import how_quantised
from adaptzip.restoring.merging.report import MergeReport
from adaptzip.restoring.merging.tokenizers import adapter_folder
from adaptzip.restoring.merging.writing import Form, Writing
from adaptzip.restoring.reading import adapter_from

FORMS = (gguf.FORM, files.FORM, pipelines.FORM, folders.FORM)
"""The first that a base model has is taken; a folder is what is left."""


def form_of(base: Path) -> Form:
    """The form that a base model has."""
    return next(form for form in FORMS if form.fits(base))


@public
def merge(
    source: str | Path | Adapter | Compressed,
    base: str | Path,
    output: str | Path,
    *,
    safe_merge: bool = False,
    scale: float = 1.0,
    device: str | torch.device = "cpu",
    force: bool = False,
    basis: str | Path | Basis | None = None,
    untie: bool = False,
    dequantise: bool = False,
    requantise: bool = False,
    tokenizer: str | Path | None = None,
    origins: Origins | None = None,
    progress: Progress | None = None,
    limits: Limits | None = None,
) -> MergeReport:
    """Write the base model with the adapter's updates added to its weights.

    On the CPU the weights are bit-identical to those of PEFT's `merge_and_unload`. The model is never whole
    in memory: its tensors are read, changed and written one at a time, into as many files as the base has.
    The base's other files are carried over; config.json is changed where a trained head or embedding asks for
    it, and has the adapter's names of its labels where it brings them. What was merged stands in a section of
    README.md and in adaptzip_merge.json. The adapter's tokenizer takes the base's place where its folder brings a
    whole one. Every changed tensor is checked for NaN and infinity. Before anything has its name, the model is opened
    as transformers would, where that is installed: what config.json names and what the weight files hold must fit.
    A merge that was interrupted or killed goes on where it was when it is run again: weight files that were finished
    are kept, in a hidden folder beside `output`, for a run that makes the same.

    A LoRA of an image model is merged into a diffusers pipeline, each module into its component, all other files as
    they are; into the folder of one component; or into one safetensors file in the names of the original
    implementation, which is written as one file whose metadata tells what was merged. A layer that is one in the base
    and several in the adapter, or the other way round, is merged by its rows. A base in GGUF becomes another GGUF file,
    whose rows lie as llama.cpp has them.

    Args:
        source: an adapter, or a `.adz` file, PEFT folder or weight file that holds one.
        base: the folder of the base model, or of a diffusers pipeline; an image model's safetensors file; a GGUF file,
            the first of several; or a name on the Hub.
        output: the folder to write; a safetensors or GGUF file where the base is one.
        safe_merge: round each update to the weight's dtype before adding it, as PEFT's safe_merge does.
        scale: multiplies every update; extras are applied in full.
        device: "cpu", "cuda", "cuda:1" or "auto"; on CUDA the last bits may differ from the CPU's.
        force: replace an existing output folder.
        basis: the basis artefact or its path, for a `.adz` file that names one; one whose basis is that of the base
            weights takes them from `base`.
        untie: give each tied embedding the updates of its own alone, so that the model computes what the live adapter
            does; PEFT's merge adds an update of one to all of them.
        dequantise: take a quantised base, and write its exact weights with the updates added, each rounded once to
            bfloat16. The report says what share of the update rounding keeps.
        requantise: take a base of float8 with scales or in GGUF's Q8_0, and write it in the same form, with scales made
            anew where a weight is changed; the same is said.
        tokenizer: the adapter's folder, where `source` does not tell it.
        origins: what an adapter in memory was made of, for the model card and the provenance.
        progress: told how far it is (`adaptzip.core.progress.Progress`).
        limits: what a `.adz` file may make of itself; None for the usual ones (`adaptzip.Limits`).

    Raises:
        CheckpointError: if the adapter cannot be read.
        BaseModelError: if the base cannot be read or does not fit the adapter.
        RefusedError: if the base is quantised without `dequantise` or `requantise`, or in a way that is not read or
            written, a link leads out of its folder, the source is not a low-rank update, or its basis is
            missing or another.
        CheckFailedError: if a weight holds NaN or infinity after its merge; nothing is written then.
        UsageError: if `output` is, holds or lies in what is read, or has another form than the base, or what is asked
            for is not for such a base, or not to be had together.
        OutputError: if `output` exists without `force`, or cannot be written.

    Example:
        >>> report = adaptzip.merge("my-adapter", "base-model", "merged")
        >>> report.modules == len(adaptzip.read("my-adapter").modules), report.extras
        (True, 2)
        >>> "model.safetensors" in report.files
        True
    """
    path, target = base_path(base), Path(output)
    check_apart(output, source=source, base=path, basis=basis)
    named = source if tokenizer is None and isinstance(source, str | Path) else tokenizer
    asked = Writing(
        scale,
        safe_merge,
        untie,
        how_quantised(dequantise, requantise, safe_merge),
        choose_device(device),
        force,
        own=None if named is None else adapter_folder(Path(named)),
        progress=progress,
    )
    form = form_of(path)
    form.check(path, target, asked)
    adapter = adapter_from(source, base=path, basis=basis)
    if origins is None:
        origins = origins_of([source]) if isinstance(source, str | Path) else Origins()
    writing = replace(asked, origins=origins, base_model=adapter.meta.base_model)
    return form.write(form.plan(adapter, path, target, writing), target, writing)


def check(
    base: Path, output: Path, *, force: bool, safe_merge: bool, untie: bool, dequantise: bool, requantise: bool
) -> None:
    """Refuse an output, and what is asked for, before any work is done.

    Raises:
        BaseModelError: if the base is a file that is no model by itself.
        UsageError: if the output is no name for what such a base becomes, or an option is not for it.
        OutputError: if the output exists without `force`.
    """
    how = how_quantised(dequantise, requantise, safe_merge)
    form_of(base).check(base, output, Writing(safe=safe_merge, untie=untie, how=how, force=force))


def foretell(
    adapter: Adapter,
    base: Path,
    output: Path,
    *,
    scale: float,
    safe_merge: bool,
    untie: bool,
    dequantise: bool,
    requantise: bool,
    tokenizer: Path,
    origins: Origins,
) -> MergeReport:
    """What `merge` would report of the same arguments, with nothing written and nothing measured; raises the same."""
    how, own = how_quantised(dequantise, requantise, safe_merge), adapter_folder(tokenizer)
    writing = Writing(scale, safe_merge, untie, how, origins=origins, base_model=adapter.meta.base_model, own=own)
    form = form_of(base)
    return form.foretell(form.plan(adapter, base, output, writing), output)
