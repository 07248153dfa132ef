"""Finding an adapter's modules among the tensors that a base model stores."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from adaptzip.base.model import BaseModel
from adaptzip.errors import BaseModelError, RefusedError

STORED_SPELLINGS = (
    ((".mlp.", ".block_sparse_moe."),),
    (
        (".layers.", ".encoder.layer."),
        (".attention.q_proj", ".attention.attention.query"),
        (".attention.k_proj", ".attention.attention.key"),
        (".attention.v_proj", ".attention.attention.value"),
        (".attention.o_proj", ".attention.output.dense"),
        (".mlp.fc1", ".intermediate.dense"),
        (".mlp.fc2", ".output.dense"),
    ),
    (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")),
)
"""(in memory, on disk) by family: Mixtral, ViT, checkpoints of TensorFlow's time."""

EXPERT_PARTS = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
"""Fused parameters in memory, and the projections on disk that they stack, in the order of their rows."""

EXPERT_STACKS = {
    ".experts.gate_up_proj": ".input_linear.weight",
    ".experts.down_proj": ".output_linear.weight",
}
"""Stacked parameters that have another name on disk (GraniteMoe)."""

PART_PREFIXES = (
    (("model.language_model.", "model."), ("model.", "")),
    (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.", ""),
    ),
    (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.", ""),
    ),
)
"""(in memory, on disk) by family: models of several parts that older versions of transformers laid out otherwise."""

_SINGLE_EXPERT = re.compile(r"^(.*\.experts)\.\d+\.[^.]+$")
_EXPERT = re.compile(r"^(.*)\.([^.\[\]]+)\[(\d+)\]$")


@dataclass(frozen=True)
class Site:
    """Where a module's weight, or a part of it, is stored.

    Attributes:
        tensor: name of the stored tensor.
        rows: the rows of the update that belong there, None for all of them.
        expert: the slice of a stacked tensor, None for the whole tensor.
    """

    tensor: str
    rows: tuple[int, int] | None = None
    expert: int | None = None


@dataclass(frozen=True)
class Renaming:
    """Changes of prefix that turn the adapter's names into the base's.

    Attributes:
        old, new: `old` is replaced by `new`.
        parts: the same for models whose parts have each their own, (old, new), of which the first that fits counts.
    """

    old: str = ""
    new: str = ""
    parts: tuple[tuple[str, str], ...] = ()

    def names(self, name: str) -> Iterator[str]:
        """The names in the base that `name` may have, best first."""
        for old, new in self.parts:
            if name.startswith(old):
                yield new + name.removeprefix(old)
                return
        if name.startswith(self.old):
            yield self.new + name.removeprefix(self.old)
        if not self.old or not name.startswith(self.old):
            yield name


def locate(base: BaseModel, module: str, renaming: Renaming) -> tuple[Site, ...]:
    """The stored tensors that make up a module's weight; none if the base lacks it."""
    for name in renaming.names(module):
        for sites in _forms(base, name):
            if all(site.tensor in base.tensors for site in sites):
                return _with_rows(base, sites)
        tied = base.tied_partners(f"{name}.weight")
        if tied:
            return (Site(tied[0]),)
    return ()


def locate_tensor(base: BaseModel, name: str, renaming: Renaming) -> str | None:
    """The stored name of a plain tensor such as a bias, or None if the base lacks it."""
    for candidate in renaming.names(name):
        for spelling in _spellings(candidate):
            if spelling in base.tensors:
                return spelling
        tied = base.tied_partners(candidate)
        if tied:
            return tied[0]
    return None


def find_renaming(base: BaseModel, modules: Sequence[str]) -> Renaming:
    """The change of prefix under which the base stores every module.

    Names that agree as they are need none, and the parts of some models have each a known one. Otherwise the first
    module decides which changes are possible: its name from the layer list on must agree, what stands before it may
    differ.

    Raises:
        BaseModelError: if no change finds every module, or several do.
    """
    tried = [Renaming()]
    if _missing(base, modules, tried[0]):
        for renaming in _part_renamings(modules):
            if not _missing(base, modules, renaming):
                return renaming
        for group in _candidates(base, _probe(modules)):
            fitting = [r for r in group if not _missing(base, modules, r)]
            if len(fitting) > 1:
                places = ", ".join(repr(r.new) for r in fitting[:4])
                raise BaseModelError(
                    f"{base.path}: the adapter's modules fit at several places of the base: {places}",
                    hint="give the base model that the adapter was trained on",
                )
            if fitting:
                return fitting[0]
            tried += group
        _raise_missing(base, modules, tried)
    return tried[0]


def _part_renamings(modules: Sequence[str]) -> list[Renaming]:
    if not any(module.startswith(("model.language_model.", "model.vis")) for module in modules):
        return []
    return [Renaming(parts=parts) for parts in PART_PREFIXES]


def _forms(base: BaseModel, name: str) -> Iterator[tuple[Site, ...]]:
    expert = _EXPERT.match(name)
    if expert is None:
        for spelling in _spellings(name):
            yield (Site(f"{spelling}.weight"),)
            yield (Site(spelling),)
        return
    folder, parameter, number = expert[1], expert[2], int(expert[3])
    stack = f"{folder}.{parameter}"
    renamed = (stack.removesuffix(end) + new for end, new in EXPERT_STACKS.items() if stack.endswith(end))
    for stored in (*_spellings(stack), *renamed):
        shape = base.stored(stored).shape if stored in base.tensors else ()
        if len(shape) == 2 and number == 0:
            yield (Site(stored),)
        elif len(shape) != 3 or number < shape[0]:
            yield (Site(stored, expert=number),)
    for place in _spellings(folder):
        for parts in EXPERT_PARTS.get(parameter, ()):
            yield tuple(Site(f"{place}.{number}.{part}.weight") for part in parts)


def _spellings(name: str) -> Iterator[str]:
    yield name
    for family in STORED_SPELLINGS:
        spelling = name
        for memory, disk in family:
            spelling = spelling.replace(memory, disk)
        if spelling != name:
            yield spelling


def _with_rows(base: BaseModel, sites: tuple[Site, ...]) -> tuple[Site, ...]:
    if len(sites) == 1:
        return sites
    placed, start = [], 0
    for site in sites:
        end = start + base.stored(site.tensor).shape[0]
        placed.append(Site(site.tensor, (start, end)))
        start = end
    return tuple(placed)


def _missing(base: BaseModel, modules: Iterable[str], renaming: Renaming) -> list[str]:
    return [module for module in modules if not locate(base, module, renaming)]


def _probe(modules: Sequence[str]) -> str:
    numbered = (m for m in modules if any(part.isdigit() for part in m.split(".")))
    return next(numbered, modules[0])


def _candidates(base: BaseModel, probe: str) -> Iterator[list[Renaming]]:
    """Changes of prefix that find the probe, in groups of falling agreement."""
    parts = probe.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
    tails = [[s.tensor.split(".") for s in sites] for sites in _forms(base, probe)]
    for cut in range(max(first, 1)):
        old = "".join(f"{p}." for p in parts[:cut])
        found: dict[Renaming, None] = {}
        for form in tails:
            tail = ".".join(form[0][cut:])
            for name in base.tensors:
                if name == tail or name.endswith(f".{tail}"):
                    found[Renaming(old, name.removesuffix(tail))] = None
        yield list(found)


def _refuse_stacked(base: BaseModel, module: str) -> None:
    """Name the cause where an adapter has each expert's layers, and the base the layers of all experts in one."""
    expert = _SINGLE_EXPERT.match(module)
    layer = expert[1] if expert is not None else "?"
    stack = next((name for name in base.tensors if name in {f"{layer}.{part}" for part in EXPERT_PARTS}), None)
    if stack is not None:
        raise RefusedError(
            f"{base.path}: stores all experts of a layer in one tensor ({stack}), but the adapter has a module for "
            f"each ({module}), which PEFT does not load on such a model either",
            hint="train with target_parameters, or merge into a base that stores its experts one by one",
        )


def _raise_missing(base: BaseModel, modules: Sequence[str], tried: Sequence[Renaming]) -> None:
    missing = min((_missing(base, modules, r) for r in tried), key=len)
    for module in missing:
        _refuse_stacked(base, module)
    stored = [name.removesuffix(".weight") for name in base.tensors if name.endswith(".weight")]
    similar = difflib.get_close_matches(missing[0], stored[:20000], n=2, cutoff=0.5)
    names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
    near = f"; similar there: {', '.join(similar)}" if similar else ""
    raise BaseModelError(
        f"{base.path}: lacks {len(missing)} of the adapter's {len(modules)} modules: {names}{near}",
        hint="is this the base model that the adapter was trained on?",
    )
