"""Merging an adapter into its base model's weights, tensor by tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from adaptzip.checkpoints._gguf.bases import is_gguf
from adaptzip.core.adapter import Adapter
from adaptzip.core.basis import Basis
from adaptzip.core.compressed import Compressed
from adaptzip.core.linalg import choose_device
from adaptzip.files.atomic import atomic_directory, check_output_folder
from adaptzip.files.inputs import check_apart
from adaptzip.files.journal import Journal
from adaptzip.restoring.merging.card import base_card, is_merged_card, write_card
from adaptzip.restoring.merging.finishing import Record
from adaptzip.restoring.merging.gguf import check_file, merge_gguf
from adaptzip.restoring.merging.labels import label_names
from adaptzip.restoring.merging.names import index_file_name, weight_file_names
from adaptzip.restoring.merging.opening import check_opens, check_written
from adaptzip.restoring.merging.plan import MergePlan, listed, plan_merge
from adaptzip.restoring.merging.provenance import NAME as PROVENANCE
from adaptzip.restoring.merging.provenance import Origins, provenance
from adaptzip.restoring.merging.quantised_bases import How, how_quantised, open_base, prepared
from adaptzip.restoring.merging.report import MergeReport
from adaptzip.restoring.merging.resuming import merge_key
from adaptzip.restoring.merging.rounding import Ledger
from adaptzip.restoring.merging.tokenizers import Tokenizer, adapter_folder, choose_tokenizer, is_tokenizer_file
from adaptzip.restoring.merging.weights import Progress, write_weights
from adaptzip.restoring.model_card import NAME as README
from adaptzip.restoring.reading import adapter_from

_TOLD = (README, PROVENANCE)
"""Files that tell what was merged."""


def merge(
    source: str | Path | Adapter | Compressed,
    base: str | Path,
    output: str | Path,
    *,
    safe_merge: bool = False,
    scale: float = 1.0,
    device: str = "cpu",
    force: bool = False,
    basis: str | Path | Basis | None = None,
    untie: bool = False,
    dequantise: bool = False,
    requantise: bool = False,
    tokenizer: str | Path | None = None,
    origins: Origins | None = None,
    progress: Progress | None = None,
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

    A base in GGUF becomes another GGUF file, whose rows lie as llama.cpp has them.

    Args:
        source: an adapter, or a `.adz` file, PEFT folder or weight file that holds one.
        base: the folder of the base model, or its GGUF file, the first of several.
        output: the folder to write, or the GGUF file.
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
        progress: called after each tensor.

    Raises:
        CheckpointError: if the adapter cannot be read.
        BaseModelError: if the base cannot be read or does not fit the adapter.
        RefusedError: if the base is quantised without `dequantise` or `requantise`, or in a way that is not read or
            written, a link leads out of its folder, the source is not a low-rank update, or its basis is
            missing or another.
        CheckFailedError: if a weight holds NaN or infinity after its merge; nothing is written then.
        UsageError: if `output` is, holds or lies in what is read, or the base is not quantised although
            `dequantise` or `requantise` is asked for, or both are, or either with `safe_merge`.
        OutputError: if `output` exists without `force`, or cannot be written.

    Example:
        >>> report = adaptzip.merge("my-adapter", "base-model", "merged")
        >>> report.modules == len(adaptzip.read("my-adapter").modules), report.extras
        (True, 2)
        >>> "model.safetensors" in report.files
        True
    """
    check_apart(output, source=source, base=base, basis=basis)
    chosen = choose_device(device)
    options = {"scale": scale, "safe_merge": safe_merge, "untie": untie, "device": chosen.type}
    how = how_quantised(dequantise, requantise, safe_merge)
    if is_gguf(base):
        check_file(Path(output), force, options)
        adapter, made_of = adapter_from(source, base=base, basis=basis), origins or _origins(source)
        return merge_gguf(adapter, Path(base), Path(output), how, options, made_of, force=force, progress=progress)
    check_output_folder(output, force)
    model = open_base(base, how)
    adapter = adapter_from(source, base=base, basis=basis)
    named = source if tokenizer is None and isinstance(source, str | Path) else tokenizer
    own = None if named is None else adapter_folder(Path(named))
    ledger = Ledger()
    plan = prepared(plan_merge(adapter, model, scale, untie=untie, labels=label_names(adapter, own)), how, ledger)
    chosen_tokenizer = choose_tokenizer(model.path, own)
    key = merge_key(plan, options)
    with atomic_directory(output, force, owned=partial(_is_owned, plan, Path(output)), key=key) as folder:
        _write_others(plan, chosen_tokenizer, folder)
        warnings = (*plan.warnings, *tokenizer_warnings(plan, chosen_tokenizer), *_opening_warnings(plan, folder, how))
        record = Record(Journal.beside(folder, key), ledger)
        broken = write_weights(plan, folder, safe=safe_merge, device=chosen, progress=progress, record=record)
        _write_index(plan, folder)
        written = [folder / name for name in weight_file_names(model)]
        rounding = None if how is None else ledger.rounding(how)
        told = provenance(plan, origins or _origins(source), adapter.meta.base_model, options, written)
        told |= {} if rounding is None else {"rounding": rounding.as_dict()}
        _write_json(folder / PROVENANCE, told)
        write_card(folder, base_card(model), told)
        check_written(plan, folder)
        files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    return MergeReport(
        Path(output),
        sum(files.values()),
        tuple(sorted(files)),
        plan.modules,
        plan.extras,
        chosen_tokenizer.origin,
        plan.untied,
        (*warnings, *_broken_warnings(broken)),
        rounding,
    )


def _opening_warnings(plan: MergePlan, folder: Path, how: How | None) -> tuple[str, ...]:
    """What `check_opens` says; of a model with the base's own tensors and quantisation it has nothing to say."""
    return () if how == "requantised" else check_opens(plan, folder)


def _broken_warnings(names: Sequence[str]) -> Iterator[str]:
    if names:
        yield f"NaN or infinity in {listed(names)}: the base holds it and the adapter does not change it"


def tokenizer_warnings(plan: MergePlan, tokenizer: Tokenizer) -> Iterator[str]:
    """What the user should know of a merged model's tokenizer, a line each."""
    if tokenizer.left:
        yield (
            f"the adapter's folder brings {listed(map(str, tokenizer.left))} but no vocabulary, so that they are "
            "left out; put its whole tokenizer there"
        )
    embedding = next((n for n in plan.tensors if n.endswith(plan.base.input_embedding or "?")), None)
    rows = plan.tensors[embedding].shape[0] if embedding is not None else None
    if rows is not None and tokenizer.tokens > rows:
        yield (
            f"the {tokenizer.origin}'s tokenizer has {tokenizer.tokens} tokens, but {embedding} only {rows}: texts "
            "with the others fail"
        )


def merged_files(plan: MergePlan, tokenizer: Tokenizer) -> list[str]:
    """The names of a merged model's files, sorted."""
    others = (file.as_posix() for file in _others(plan, tokenizer))
    return sorted({*_weight_names(plan), *_TOLD, *others})


def _weight_names(plan: MergePlan) -> list[str]:
    index = index_file_name(plan.base)
    return [*weight_file_names(plan.base), *([] if index is None else [index])]


def _others(plan: MergePlan, tokenizer: Tokenizer) -> dict[Path, Path]:
    """The folder that each file beside the weights comes from."""
    carried = (file for file in plan.base.others if file.as_posix() not in _TOLD)
    base = {file: plan.base.path for file in carried if not is_tokenizer_file(file.as_posix())}
    weights = {shard.path for shard in plan.base.shards}
    return base | {file: tokenizer.folder for file in tokenizer.files if tokenizer.folder / file not in weights}


def _is_owned(plan: MergePlan, output: Path, name: str) -> bool:
    """Whether a merged model of this base may have a file of this name; a README only with a merge's section, unless
    the base brings one."""
    if name == PROVENANCE or (name == README and is_merged_card(output / README)):
        return True
    others = (file.as_posix() for file in plan.base.others)
    return is_tokenizer_file(name) or name in (*_weight_names(plan), "config.json", *others)


def _write_index(plan: MergePlan, folder: Path) -> None:
    name = index_file_name(plan.base)
    if name is not None:
        _write_json(folder / name, _index(plan))


def _index(plan: MergePlan) -> dict[str, object]:
    """The base's index with the merged model's names, files and sizes."""
    weight_map, size, numbers = {}, 0, 0
    for file, outputs in zip(weight_file_names(plan.base), plan.outputs, strict=True):
        for output in outputs:
            weight_map[output.stored.name] = file
            size += output.stored.bytes
            numbers += torch.Size(output.stored.shape).numel()
    index = dict(plan.base.index or {})
    known = index.get("metadata")
    metadata = (dict(known) if isinstance(known, Mapping) else {}) | {"total_size": size}
    if "total_parameters" in metadata:
        metadata["total_parameters"] = numbers
    return index | {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}


def _write_others(plan: MergePlan, tokenizer: Tokenizer, folder: Path) -> None:
    for relative, home in _others(plan, tokenizer).items():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if relative.as_posix() == "config.json" and plan.config is not None:
            _write_json(target, plan.config)
        else:
            shutil.copyfile(home / relative, target)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
