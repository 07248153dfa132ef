"""A model in memory: what it makes of a batch, and which labels the rows of that have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from itertools import groupby
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptzip.models.kinds import OF_TEXTS, WITH_HEAD, Kind
from adaptzip.models.live.batch import NO_LABEL, Batch, padded
from adaptzip.models.live.forward import forward
from adaptzip.models.live.layers import Layer
from adaptzip.models.live.leaving import counting
from adaptzip.models.live.padding import Company
from adaptzip.models.live.rows import apart
from adaptzip.models.pooling import Pooling
from adaptzip.models.texts.encoding import Encoded, check_known, encode_text
from adaptzip.models.texts.example import Example
from adaptzip.models.texts.forms import check_forms, words_of
from adaptzip.models.texts.tokenisers import Tokeniser

Scored = Literal["all", "completion"]
"""What of a prompt with its completion counts."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in float32, frozen and without dropout.

    Attributes:
        layers: the layers that an adapter names.
        pad: the token that texts are padded with; None where there is none that a classifier knows, so that its texts
            are run one at a time.
        score: what of a prompt with its completion counts: "completion", or "all"; None is the completion where there
            is one.
        company: whether texts may be run together.
        own_pad: whether the model's configuration names that token.
        pooling: how an encoder's embedding of a text is made of its tokens'.
    """

    model: nn.Module
    kind: Kind
    tokeniser: Tokeniser
    layers: Mapping[str, Layer]
    pad: int | None = None
    score: Scored | None = None
    company: Company = field(default_factory=Company)
    pooling: Pooling = Pooling()
    own_pad: bool = True

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of a classifier's classes, by index; () for other kinds."""
        if self.kind not in WITH_HEAD or self.kind == "scores":
            return ()
        names: Mapping[int, str] = self.config.id2label
        return tuple(names[index] for index in sorted(names))

    @property
    def outputs(self) -> int:
        """Numbers that a head puts out for a text."""
        return int(self.config.num_labels)

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text: the tokeniser's, and those that the model's configuration names."""
        own = getattr(text_config(self.config), "eos_token_id", None)
        named = own if isinstance(own, list) else [own]
        return frozenset(token for token in (*named, self.tokeniser.end) if token is not None)

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def known(self) -> int:
        """Tokens that the model has an embedding for."""
        return tokens_of(self.model)

    @property
    def takes_types(self) -> bool:
        """Whether the model is told the types of tokens."""
        return "token_type_ids" in signature(self.model.forward).parameters

    def longest(self, max_tokens: int) -> int:
        """`max_tokens`, or fewer if the model has a table of positions, which ends."""
        config = text_config(self.config)
        turned = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
        positions = 0 if turned else getattr(config, "max_position_embeddings", None) or 0
        # XLNet's -1 says that there is no end to them.
        return min(max_tokens, positions - _first_position(self.model)) if positions > 0 else max_tokens

    def encode(self, example: Example, longest: int | None) -> Encoded:
        """An example's text as the model takes it, without labels; see `encode_text`."""
        return encode_text(
            self.tokeniser,
            example,
            longest,
            completion=self.kind == "causal" and self.score != "all",
            known=self.known,
        )

    def encode_words(self, example: Example, longest: int) -> tuple[Encoded, list[int | None]]:
        """A text of which each word has a class, without labels, and which word each of its tokens is of."""
        words = words_of(example)
        ids, types, owners = self.tokeniser.encode_words(words, longest, listed=bool(example.words))
        check_known(self.tokeniser, example, ids, self.known)
        return Encoded(tuple(ids), (), tuple(types)), owners

    def encode_target(self, example: Example, target: str, longest: int) -> tuple[int, ...]:
        """The tokens of a text that a seq2seq model is to write."""
        ids = self.tokeniser.encode_target(target, longest)
        check_known(self.tokeniser, example, ids, self.known)
        return tuple(ids)

    def batches(self, texts: Sequence[str | Example], size: int, max_tokens: int) -> list[Batch]:
        """The texts cut to `max_tokens`, in batches of `size`, short ones first; labels are left out.

        Texts with others to be written are together only where both are equally long: what observes layers knows the
        padding of the texts alone. Those of which no token counts are left out, with a warning.

        Raises:
            CheckFailedError: if none of the texts has a token that counts.
            UsageError, CheckpointError: if the model does not read such examples (`check_forms`).
        """
        longest = self.longest(max_tokens)
        examples = [Example(text) if isinstance(text, str) else replace(text, label=None) for text in texts]
        check_forms(self.kind, self.score, examples)
        fed = [self._fed(example, longest) for example in examples]
        found = sorted(self.counting(examples, fed, longest, "give texts with shorter prompts"), key=_lengths)
        written = any(encoded.labels for encoded in found)
        groups = [list(group) for _, group in groupby(found, _lengths)] if written else [found]
        parts = (part[at : at + size] for part in groups for at in range(0, len(part), size))
        return self.apart_if_one_is(self._unlabelled(part) for part in parts)

    def counting(self, examples: Sequence[Example], found: Sequence[Encoded], longest: int, hint: str) -> list[Encoded]:
        """What has a token that counts, as `leaving.counting` keeps it, of `examples` that were encoded as `found`."""

        def is_cut() -> bool:
            if self.kind != "causal" or self.score == "all":
                return False
            return any(example.completes and self.encode(example, None).ids for example in examples)

        return counting(found, longest, is_cut, hint)

    def _fed(self, example: Example, longest: int) -> Encoded:
        if self.kind == "tokens":
            return self.encode_words(example, longest)[0]
        if self.kind != "seq2seq":
            return self.encode(example, longest)
        target = () if example.completion is None else self.encode_target(example, example.completion, longest)
        return replace(self.encode(replace(example, completion=None), longest), labels=target)

    def _unlabelled(self, part: Sequence[Encoded]) -> Batch:
        """A batch without labels but the texts that a seq2seq model is to write."""
        targets = [[int(token) for token in text.labels] for text in part]
        return self.encoded_batch(part, padded(targets, NO_LABEL) if any(targets) else None)

    def batch(self, ids: Sequence[Sequence[int]], labels: Tensor | None = None) -> Batch:
        """Texts as a batch, padded at their ends, on the model's device."""
        return self.encoded_batch([Encoded(tuple(row)) for row in ids], labels)

    def encoded_batch(self, texts: Sequence[Encoded], labels: Tensor | None = None) -> Batch:
        """The same of texts that may be pairs, or have tokens that do not count.

        The model is run where it is not known yet whether it takes such texts together (`Company`).
        """
        ids = padded([text.ids for text in texts], self.pad or 0)
        lengths = torch.tensor([len(text.ids) for text in texts])
        places = torch.arange(ids.shape[1])
        mask = places < lengths.unsqueeze(1)
        typed = self.takes_types and any(text.types for text in texts)
        types = padded([text.types for text in texts], 0) if typed else None
        if types is not None and types.shape != ids.shape:
            types = functional.pad(types, (0, ids.shape[1] - types.shape[1]))
        scored = None
        if any(text.start for text in texts):
            # A row is what follows its token, so that it counts from the token before the first that is scored.
            starts = torch.tensor([text.start - 1 if text.start else 0 for text in texts])
            ends = torch.tensor([len(text.ids) - bool(text.start) for text in texts])
            scored = (places >= starts.unsqueeze(1)) & (places < ends.unsqueeze(1))
        labels, types, scored = (None if part is None else part.to(self.device) for part in (labels, types, scored))
        batch = Batch(ids.to(self.device), mask.to(self.device), labels, types, scored)
        if self.pad is None and self.kind in OF_TEXTS:
            return replace(batch, apart=True)
        return replace(batch, apart=not self.company.suits(batch, self.each(batch), self, type(self.model).__name__))

    def apart_if_one_is(self, batches: Iterable[Batch]) -> list[Batch]:
        """The batches, whose texts are all run one at a time where those of one have to be."""
        made = list(batches)
        return [replace(batch, apart=True) for batch in made] if self.company.apart else made

    def each(self, batch: Batch) -> Iterator[Batch]:
        """Every text of a batch by itself."""
        return batch.each(words=self.kind == "tokens")

    def __call__(self, batch: Batch) -> Tensor:
        """What counts of the model's output.

        causal: logits (tokens, vocabulary) of all tokens that are no padding, or of those that a completion follows.
        classifier, multilabel, scores: (texts, outputs). tokens: logits (tokens, classes). encoder: embeddings
        (texts, width). seq2seq: logits (target tokens, vocabulary), each from
        the target's tokens before it.

        Raises:
            RefusedError: if the model cannot run on these texts.
        """
        if batch.apart:
            return torch.cat([self(one) for one in self.each(batch)])
        options: dict[str, Any] = {"use_cache": False} if self.kind in ("causal", "seq2seq") else {}
        if self.kind == "seq2seq":
            options["labels"] = batch.targets
        if batch.types is not None:
            options["token_type_ids"] = batch.types
        output = forward(self.model, batch.ids, batch.mask, **options)
        if self.kind == "encoder":
            return self.pooling.embed(output.last_hidden_state, batch.mask)
        logits: Tensor = output.logits
        if self.kind in OF_TEXTS:
            return logits
        if self.kind == "seq2seq":
            return logits[batch.targets != NO_LABEL]
        return logits[batch.mask if batch.scored is None else batch.scored]

    def rows_labels(self, batch: Batch) -> Tensor | None:
        """The label of each row of the output, (rows,) int64, `NO_LABEL` where there is none.

        A causal model's rows are labelled with the next token. Of several labels and of scores it is (rows, outputs)
        float, NaN where there is none. None for an encoder and for a batch without labels.
        """
        if self.kind == "causal":
            follows = functional.pad(batch.mask[:, 1:], (0, 1))
            rows = batch.mask if batch.scored is None else batch.scored
            return batch.ids.roll(-1, 1).masked_fill(~follows, NO_LABEL)[rows]
        if self.kind == "encoder" or batch.labels is None:
            return None
        if self.kind in OF_TEXTS:
            return batch.labels
        return batch.labels[batch.mask if self.kind == "tokens" else batch.labels != NO_LABEL]

    def rows_texts(self, batch: Batch) -> Tensor:
        """The place within the batch of the text that each row of the output is of, (rows,) int64."""
        if self.kind in OF_TEXTS or self.kind == "encoder":
            return torch.arange(len(batch.ids), device=batch.ids.device)
        if self.kind == "seq2seq":
            counted = batch.targets != NO_LABEL
        else:
            counted = batch.mask if batch.scored is None else batch.scored
        return counted.nonzero()[:, 0]

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Sum over rows of two outputs' distance (`rows.apart`); differentiable."""
        return apart(self.kind, teacher, student)


def _lengths(encoded: Encoded) -> tuple[int, int]:
    return len(encoded.ids), len(encoded.labels)


def tokens_of(model: Any) -> int:
    """Tokens that a model has an embedding for."""
    return len(model.get_input_embeddings().weight)


def text_config(config: Any) -> Any:
    """The part of a model's configuration that is about text, where it has several parts."""
    return config.get_text_config()


def _first_position(model: nn.Module) -> int:
    """RoBERTa and its kin count positions from the one after padding's."""
    tables = (m for name, m in model.named_modules() if name.endswith("position_embeddings"))
    table = next((table for table in tables if isinstance(table, nn.Embedding)), None)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1
