"""Embeddings that are one parameter of the model: which tensors share it, by the names the model has for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from adaptzip.models.configs import output_name, says_untied
from adaptzip.models.folder import OUTPUT_EMBEDDINGS, SIDES, BaseModel, side_names
from adaptzip.models.names import Renaming


@dataclass(frozen=True)
class TiedFamily:
    """Embeddings that are one parameter.

    Attributes:
        members: their names in the model: the stored one that stands for all, an encoder-decoder's own, the output's.
    """

    members: tuple[str, ...]

    @property
    def source(self) -> str:
        """The stored tensor."""
        return self.members[0]

    def find(self, name: str, renaming: Renaming) -> str | None:
        """The member that the adapter calls `name`, or None."""
        for candidate in renaming.names(name):
            for member in self.members:
                if candidate == member or (member != self.source and candidate.endswith(_tail(member))):
                    return member
        return None


def find_family(base: BaseModel, named: Iterable[str] = (), *, headless: bool = False) -> TiedFamily | None:
    """The base's tied embeddings, or None where its input embedding is a parameter of its own.

    Args:
        base: the base model.
        named: tensors of the model that the adapter names; an output embedding among them exists.
        headless: the model is used without its output embedding.
    """
    embedding = base.input_embedding
    if embedding is None:
        return None
    members = [embedding, *_sides(base, embedding)]
    output = None if headless or says_untied(base.config) else _output(base, embedding, named)
    if output is not None:
        members.append(output)
    return TiedFamily(tuple(members)) if len(members) > 1 else None


def _sides(base: BaseModel, embedding: str) -> Iterator[str]:
    partners = base.tied_partners(embedding)
    for name in side_names(embedding):
        part = name.removesuffix("embed_tokens.weight")
        if name in partners or (name not in base.tensors and any(t.startswith(part) for t in base.tensors)):
            yield name


def _output(base: BaseModel, embedding: str, named: Iterable[str]) -> str | None:
    stored = [name for name in base.tensors if base.is_output(name)]
    if stored:
        return next((name for name in base.tied_partners(embedding) if name in stored), None)
    for name in named:
        if base.is_output(name):
            return name
    return output_name(base.config)


def _tail(member: str) -> str:
    """What tells a member whatever stands before it: an output's name, or a side's."""
    return next((end for end in (*SIDES, *OUTPUT_EMBEDDINGS) if member.endswith(end)), member)
