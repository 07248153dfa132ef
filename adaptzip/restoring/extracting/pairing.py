"""Which tensor of a base model each tensor of a tuned one is a change of, decided before any is read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from adaptzip.checkpoints._trained import is_constant
from adaptzip.core.effects import HEAD_NAMES
from adaptzip.errors import BaseModelError
from adaptzip.models.configs import output_name
from adaptzip.models.folder import BaseModel
from adaptzip.models.names import Location, Renaming, locate, locate_tensor
from adaptzip.models.renaming import find_renaming
from adaptzip.models.tying import TiedFamily, find_family
from adaptzip.restoring.extracting.parts import Part, is_embedding, parts_of

WHOSE = "the tuned model"


@dataclass(frozen=True)
class Whole:
    """A tensor that is kept as it is where it differs.

    Attributes:
        name: its name in the tuned model.
        before: the base's tensor in whose place it is put, None where it is of a new head.
        copied: it is of a module of its own: a new head, or one of several embeddings that were one parameter.
    """

    name: str
    before: str | None
    copied: bool = False


@dataclass(frozen=True)
class Pairing:
    """What is to be compared.

    Attributes:
        parts: modules, and where the base stores their weights.
        wholes: tensors that are no module's weight.
        heads: modules of the tuned model that are kept as a copy of their own.
        shared: embeddings that stay one parameter with the stored one, whose update is theirs too.
        missing: tensors of the base that the tuned model lacks.
    """

    parts: tuple[tuple[Part, tuple[Location, ...]], ...]
    wholes: tuple[Whole, ...]
    heads: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(eq=False)
class _Pairs:
    """A pairing that grows."""

    base: BaseModel
    tuned: BaseModel
    renaming: Renaming
    family: TiedFamily | None
    whole_embeddings: bool
    parts: list[tuple[Part, tuple[Location, ...]]] = field(default_factory=list)
    wholes: list[Whole] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)


def pair(base: BaseModel, tuned: BaseModel, *, whole_embeddings: bool = False) -> Pairing:
    """Say what is to be compared with what.

    Args:
        base: the model that was tuned.
        tuned: what became of it.
        whole_embeddings: keep input and output embeddings as they are instead of their updates.

    Raises:
        BaseModelError: if within its layers one of the models has a tensor that the other lacks, or one of another
            shape, naming the tensor and the nearest name.
        RefusedError: if experts are stored in a way that cannot be told apart.
    """
    names = [part.name for tensor in tuned.tensors for part in parts_of(tuned, tensor) if _is_deep(part.name)]
    renaming = find_renaming(base, names, WHOSE) if names else Renaming()
    pairs = _Pairs(base, tuned, renaming, _family(base, tuned, renaming), whole_embeddings)
    for tensor in tuned.tensors:
        if not _is_shared(pairs, tensor):
            _add(pairs, tensor)
    used = {place.tensor for _, places in pairs.parts for place in places}
    used |= {whole.before for whole in pairs.wholes if whole.before is not None}
    missing = list(_missing(pairs, used))
    heads = sorted({_head(pairs, whole) for whole in pairs.wholes if whole.copied})
    return Pairing(tuple(pairs.parts), tuple(pairs.wholes), tuple(heads), tuple(pairs.shared), tuple(missing))


def _family(base: BaseModel, tuned: BaseModel, renaming: Renaming) -> TiedFamily | None:
    """The base's embeddings that are one parameter, but for an output that the tuned model has no room for."""
    headless = output_name(tuned.config) is None and not any(map(tuned.is_output, tuned.tensors))
    return find_family(base, (next(renaming.names(name)) for name in tuned.tensors), headless=headless)


def _is_shared(pairs: _Pairs, tensor: str) -> bool:
    """Whether a tensor is the same parameter as one that stands for it; one that no longer is, is kept as a copy."""
    family = pairs.family
    member = None if family is None else family.find(tensor, pairs.renaming)
    if family is None or member is None:
        return _is_bias_of_decoder(pairs.tuned, tensor)
    if member == family.source:
        pairs.shared += [other for other in family.members[1:] if not _own(pairs, other)]
        return False
    source = next((n for n in pairs.tuned.tensors if family.find(n, pairs.renaming) == family.source), None)
    if source is None:
        return False
    if not _equal(pairs.tuned, tensor, source):
        pairs.wholes.append(Whole(tensor, None, copied=True))
    return True


def _own(pairs: _Pairs, member: str) -> bool:
    """Whether the tuned model stores a member of the family by itself, with other numbers than the first's."""
    family = pairs.family
    assert family is not None
    found = {family.find(name, pairs.renaming): name for name in pairs.tuned.tensors}
    own, source = found.get(member), found.get(family.source)
    return own is not None and source is not None and not _equal(pairs.tuned, own, source)


def _is_bias_of_decoder(tuned: BaseModel, tensor: str) -> bool:
    """A masked head's decoder shares its bias with the head."""
    own = f"{tensor.removesuffix('.decoder.bias')}.bias"
    return tensor.endswith(".decoder.bias") and own in tuned.tensors and _equal(tuned, tensor, own)


def _equal(model: BaseModel, one: str, other: str) -> bool:
    a, b = model.stored(one), model.stored(other)
    return (a.dtype, a.shape) == (b.dtype, b.shape) and model.digest(one) == model.digest(other)


def _add(pairs: _Pairs, tensor: str) -> None:
    base, tuned = pairs.base, pairs.tuned
    parts = parts_of(tuned, tensor)
    found = [locate(base, part.name, pairs.renaming) for part in parts]
    before = locate_tensor(base, tensor, pairs.renaming)
    if parts and all(found) and not _kept_whole(pairs, tensor, before):
        pairs.parts += zip(parts, found, strict=True)
    elif before is not None:
        pairs.wholes.append(Whole(tensor, before, copied=_is_grown_head(pairs, tensor, before)))
    elif _is_deep(tensor):
        if not _is_buffer(tuned, tensor):
            raise _lacking(base, tensor, "which the tuned model has", base.tensors)
    elif not _is_buffer(tuned, tensor):
        pairs.wholes.append(Whole(tensor, None, copied=True))


def _kept_whole(pairs: _Pairs, tensor: str, before: str | None) -> bool:
    """Whether a matrix is kept as it is: an embedding if asked for, and one of another vocabulary or other labels.

    Raises:
        BaseModelError: if it has another shape than it may.
    """
    if before is None:
        return False
    embedding = is_embedding(pairs.tuned, tensor) or pairs.base.is_output(before)
    shape, old = pairs.tuned.stored(tensor).shape, pairs.base.stored(before).shape
    if shape == old:
        return pairs.whole_embeddings and embedding
    if not tensor.endswith(".weight"):
        return False
    if shape[1:] == old[1:] and (embedding or _is_head(tensor)):
        return True
    if set(shape) == set(old) and not embedding:
        return False
    raise _other_shape(pairs, tensor, before)


def _is_grown_head(pairs: _Pairs, tensor: str, before: str) -> bool:
    """Whether a tensor is of a head for other labels.

    Raises:
        BaseModelError: if it has another shape than the base's and may not.
    """
    shape, old = pairs.tuned.stored(tensor).shape, pairs.base.stored(before).shape
    grows = is_embedding(pairs.tuned, tensor) or pairs.base.is_output(before) or _is_head(tensor)
    if shape != old and not (shape[1:] == old[1:] and (grows or _is_bias_of_vocabulary(pairs, old, shape))):
        raise _other_shape(pairs, tensor, before)
    return shape != old and _is_head(tensor)


def _is_bias_of_vocabulary(pairs: _Pairs, old: tuple[int, ...], new: tuple[int, ...]) -> bool:
    one, other = pairs.base.input_embedding, pairs.tuned.input_embedding
    if one is None or other is None or len(old) != 1:
        return False
    return (old[0], new[0]) == (pairs.base.stored(one).shape[0], pairs.tuned.stored(other).shape[0])


def _is_head(tensor: str) -> bool:
    return any(part in HEAD_NAMES for part in tensor.split("."))


def _head(pairs: _Pairs, whole: Whole) -> str:
    """The module that a copy is of: the outermost one that the base lacks, else the one whose tensor it is."""
    parts = whole.name.split(".")[:-1]
    for depth in range(1, len(parts) + 1):
        module = ".".join(parts[:depth])
        inside = tuple(f"{name}." for name in pairs.renaming.names(module))
        if not any(stored.startswith(inside) for stored in pairs.base.tensors):
            return module
    return next((".".join(parts[: i + 1]) for i, part in enumerate(parts) if part in HEAD_NAMES), ".".join(parts))


def _missing(pairs: _Pairs, used: Iterable[str]) -> Iterator[str]:
    """The base's tensors of which the tuned model has none; those that it shares with another are paired with that.

    Raises:
        BaseModelError: if one is within the layers.
    """
    base, tuned, known = pairs.base, pairs.tuned, set(used)
    family = () if pairs.family is None else pairs.family.members
    for tensor in base.tensors:
        if tensor in known or tensor in family or _is_buffer(base, tensor) or _is_bias_of_decoder(base, tensor):
            continue
        partners = tuned.tied_partners(tensor) if tensor == output_name(tuned.config) else ()
        if partners and parts_of(base, tensor):
            (own,) = parts_of(tuned, partners[0])
            name = tensor.removesuffix(".weight")
            part = Part(name, own.place, "linear", (), (own.shape[1], own.shape[0]))
            pairs.parts.append((part, (Location(tensor),)))
        elif _is_deep(tensor):
            raise _lacking(tuned, tensor, "which the base model has", tuned.tensors)
        else:
            yield tensor


def _is_deep(name: str) -> bool:
    """Whether a name lies within a list of layers."""
    return any(part.isdigit() for part in name.split("."))


def _is_buffer(model: BaseModel, tensor: str) -> bool:
    """Whether a tensor is one that a model makes itself, which older files have beside its weights."""
    leaf = tensor.rpartition(".")[2]
    if leaf == "inv_freq":
        return True
    return leaf in ("position_ids", "token_type_ids", "bias", "masked_bias") and (
        is_constant(tensor, model.read(tensor))
    )


def _other_shape(pairs: _Pairs, tensor: str, before: str) -> BaseModelError:
    shape, old = pairs.tuned.stored(tensor).shape, pairs.base.stored(before).shape
    return BaseModelError(
        f"{pairs.tuned.path}: {tensor} is {list(shape)}, the base's {before} is {list(old)}",
        hint="an adapter changes the weights of one architecture: give the base that the model was tuned from",
    )


def _lacking(model: BaseModel, tensor: str, why: str, known: Iterable[str]) -> BaseModelError:
    near = difflib.get_close_matches(tensor, list(known)[:20000], n=1, cutoff=0.5)
    similar = f"; similar there: {near[0]}" if near else ""
    return BaseModelError(
        f"{model.path}: lacks {tensor}, {why}{similar}",
        hint="an adapter changes the weights of one architecture: give the base that the model was tuned from",
    )
