"""Merging an adapter into its base model's weights, tensor by tensor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from adaptzip.core.adapter import Adapter
from adaptzip.files.atomic import atomic_directory
from adaptzip.models.folder import BaseModel
from adaptzip.restoring.merging.card import base_card, is_merged_card, write_card
from adaptzip.restoring.merging.labels import label_names
from adaptzip.restoring.merging.names import index_file_name, weight_file_names
from adaptzip.restoring.merging.opening import check_opens, check_written
from adaptzip.restoring.merging.plan import MergePlan, listed, plan_merge
from adaptzip.restoring.merging.provenance import NAME as PROVENANCE
from adaptzip.restoring.merging.provenance import Origins, provenance
from adaptzip.restoring.merging.tokenizers import Tokenizer, choose_tokenizer, is_tokenizer_file
from adaptzip.restoring.merging.weights import Progress, write_weights
from adaptzip.restoring.model_card import NAME as README

_TOLD = (README, PROVENANCE)
"""Files that tell what was merged."""


@dataclass(frozen=True)
class MergeReport:
    """What `merge` wrote.

    Attributes:
        path: the folder of the merged model.
        bytes: size of all its files.
        files: their names, sorted.
        modules: how many modules were merged.
        extras: how many extras (heads, biases, token rows, embeddings) were applied.
        tokenizer: whose tokenizer it carries, "adapter" or "base"; None where neither brings one.
        untied: tied embeddings became parameters of their own.
        warnings: what the user should know of the result, a line each.
    """

    path: Path
    bytes: int
    files: tuple[str, ...]
    modules: int
    extras: int
    tokenizer: str | None = None
    untied: bool = False
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The report as JSON values."""
        return {
            "path": str(self.path),
            "bytes": self.bytes,
            "files": list(self.files),
            "modules": self.modules,
            "extras": self.extras,
            "tokenizer": self.tokenizer,
            "untied": self.untied,
            "warnings": list(self.warnings),
        }


def merge_folder(
    adapter: Adapter,
    model: BaseModel,
    output: Path,
    *,
    safe_merge: bool,
    scale: float,
    device: torch.device,
    force: bool,
    untie: bool,
    own: Path | None,
    origins: Origins,
    progress: Progress | None,
) -> MergeReport:
    """As `merge`, for a base model's folder.

    Args:
        own: the adapter's folder, None where it has none.
    """
    plan = plan_merge(adapter, model, scale, untie=untie, labels=label_names(adapter, own))
    chosen_tokenizer = choose_tokenizer(model.path, own)
    options = {"scale": scale, "safe_merge": safe_merge, "untie": untie, "device": device.type}
    with atomic_directory(output, force, owned=partial(_is_owned, plan, output)) as folder:
        _write_others(plan, chosen_tokenizer, folder)
        warnings = (*plan.warnings, *tokenizer_warnings(plan, chosen_tokenizer), *check_opens(plan, folder))
        broken = write_weights(plan, folder, safe=safe_merge, device=device, progress=progress)
        write_index(plan, folder)
        written = [folder / name for name in weight_file_names(model)]
        told = provenance(plan, origins, adapter.meta.base_model, options, written)
        write_json(folder / PROVENANCE, told)
        write_card(folder, base_card(model), told)
        check_written(plan, folder)
        files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    return MergeReport(
        output,
        sum(files.values()),
        tuple(sorted(files)),
        plan.modules,
        plan.extras,
        chosen_tokenizer.origin,
        plan.untied,
        (*warnings, *broken_warnings(broken)),
    )


def broken_warnings(names: Sequence[str]) -> Iterator[str]:
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


def write_index(plan: MergePlan, folder: Path) -> None:
    name = index_file_name(plan.base)
    if name is not None:
        write_json(folder / name, _index(plan))


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
            write_json(target, plan.config)
        else:
            shutil.copyfile(home / relative, target)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
