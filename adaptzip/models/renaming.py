"""Finding the change of prefix under which a base model stores an adapter's modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from adaptzip.errors import BaseModelError
from adaptzip.models.folder import BaseModel
from adaptzip.models.names import Renaming, locate, stored_forms
from adaptzip.models.nearest import misnumbered, similar
from adaptzip.models.wrappers import refuse_wrapped

_WHICH = "is this the base model that {} was trained on?"
_VERSIONS = (
    " transformers 4 and 5 name some models' modules otherwise: where the similar ones are the same, save {} "
    "again with the version that saved the base"
)


def find_renaming(base: BaseModel, modules: Sequence[str], whose: str = "the adapter") -> Renaming:
    """The change of prefix under which the base stores every module.

    Names that agree as they are need none. Otherwise a module decides which changes are possible: its name from
    the layer list on must agree, what stands before it may differ. Where no one change finds all modules, each
    of the model's towers may have its own.

    Args:
        base: the base model.
        modules: their names in what `whose` tells.
        whose: what messages call that.

    Raises:
        BaseModelError: if no change finds every module, or several do.
        CheckpointError: if the adapter's names carry what a wrapper around the model put there.
    """
    tried = [Renaming()]
    if not _missing(base, modules, tried[0]):
        return tried[0]
    for group in _candidates(base, _probe(modules)):
        fitting = [r for r in group if not _missing(base, modules, r)]
        if fitting:
            return _only(base, fitting, modules[0], whose)
        tried += group
    towers = _of_towers(base, modules)
    if not _missing(base, modules, towers):
        return towers
    best = min((*tried, towers), key=lambda r: len(_missing(base, modules, r)))
    refuse_wrapped(base.path, modules, lambda names: _fits(base, names))
    raise _lacking(base, modules, best, whose)


def _only(base: BaseModel, fitting: Sequence[Renaming], module: str, whose: str = "the adapter") -> Renaming:
    """The one change of several that keeps most parts of the old prefix; `module` is one that they find."""
    shared = [len(set(r.old.split(".")[:-1]) & set(r.new.split("."))) for r in fitting]
    best = [r for r, count in zip(fitting, shared, strict=True) if count == max(shared)]
    if len(best) == 1:
        return best[0]
    places = ", ".join(locate(base, module, r)[0].tensor for r in best[:4])
    raise BaseModelError(
        f"{base.path}: {whose}'s {module} fits at several places of the base, equally well: {places}",
        hint=f"give the base model that {whose} was trained on",
    )


def _of_towers(base: BaseModel, modules: Sequence[str]) -> Renaming:
    """A change of prefix for each layer list that the modules name, and for parts that have none."""
    groups: dict[str, list[str]] = {}
    for module in modules:
        parts = module.split(".")
        first = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
        if first:
            groups.setdefault("".join(f"{part}." for part in parts[:first]), []).append(module)
    found = []
    for prefix, members in groups.items():
        fitting = _fitting(base, members)
        if fitting:
            change = _only(base, fitting, members[0])
            # The whole prefix keeps towers apart; the shorter one serves what lies outside the layer list.
            whole = change.new + prefix.removeprefix(change.old)
            found += [Renaming(prefix, whole), *([change] if change.old else [])]
    towers = Renaming(towers=tuple(sorted(found, key=lambda r: -len(r.old))))
    apart = dict.fromkeys(one for m in _missing(base, modules, towers) if (one := _of_one(base, m)))
    return Renaming(towers=(*apart, *towers.towers))


def _of_one(base: BaseModel, module: str) -> Renaming | None:
    """The change for a module outside of layer lists, such as a patch embedding: two parts or more must agree."""
    parts = module.split(".")
    for cut in range(0 if any(map(str.isdigit, parts)) else len(parts) - 1):
        tail = ".".join([*parts[cut:], "weight"])
        found = [name for name in base.tensors if f".{name}".endswith(f".{tail}")]
        if found:
            old = module.removesuffix(parts[-1])
            return Renaming(old, found[0].removesuffix(f"{parts[-1]}.weight")) if len(found) == 1 else None
    return None


def _fitting(base: BaseModel, modules: Sequence[str]) -> list[Renaming]:
    if not _missing(base, modules, Renaming()):
        return [Renaming()]
    for group in _candidates(base, modules[0]):
        fitting = [r for r in group if not _missing(base, modules, r)]
        if fitting:
            return fitting
    return []


def _fits(base: BaseModel, modules: Sequence[str]) -> bool:
    return bool(_fitting(base, modules)) or not _missing(base, modules, _of_towers(base, modules))


def _missing(base: BaseModel, modules: Iterable[str], renaming: Renaming) -> list[str]:
    return [module for module in modules if not locate(base, module, renaming)]


def _probe(modules: Sequence[str]) -> str:
    numbered = (m for m in modules if any(part.isdigit() for part in m.split(".")))
    return next(numbered, modules[0])


def _candidates(base: BaseModel, probe: str) -> Iterator[list[Renaming]]:
    """Changes of prefix that find the probe, in groups of falling agreement."""
    parts = probe.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
    tails = [[s.tensor.split(".") for s in sites] for sites in stored_forms(base, probe)]
    for cut in range(max(first, 1)):
        old = "".join(f"{p}." for p in parts[:cut])
        found: dict[Renaming, None] = {}
        for form in tails:
            tail = ".".join(form[0][cut:])
            for name in base.tensors:
                if name == tail or name.endswith(f".{tail}"):
                    found[Renaming(old, name.removesuffix(tail))] = None
        yield list(found)


def _lacking(base: BaseModel, modules: Sequence[str], best: Renaming, whose: str) -> BaseModelError:
    """The error about modules that the base lacks even under the change of prefix that finds most."""
    missing = _missing(base, modules, best)
    names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    near = similar(missing[0], (name.removesuffix(".weight") for name in base.tensors))
    fewer = misnumbered(base, missing[0], best)
    return BaseModelError(
        f"{base.path}: lacks {len(missing)} of {whose}'s {len(modules)} modules: {names}{near}{fewer}",
        hint=_elsewhere(base) or (_WHICH + _VERSIONS if near and not fewer else _WHICH).format(whose, whose),
    )


def _elsewhere(base: BaseModel) -> str | None:
    """What to do where an index lies beside the single file that counts, as it may name more."""
    beside = [f"{shard.path.name}.index.json" for shard in base.shards]
    stale = next((name for name in beside if base.index is None and (base.path / name).is_file()), None)
    return stale and (
        f"{stale} lies there too, but loaders read {base.shards[0].path.name} alone; remove the one that is stale"
    )
