"""The base model with an adapter on it, run on texts: what it computes, and what its layers see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptzip.adapter import Adapter
from adaptzip.base.model import BaseModel
from adaptzip.calibration.guests import load_locally
from adaptzip.calibration.kinds import LOADERS, Kind, kind_of, kind_of_base, trained_head
from adaptzip.calibration.layers import Layer, add_adapter, extra_tensors, find_layers, place_extras
from adaptzip.calibration.tokenisers import Tokeniser, load_tokeniser
from adaptzip.errors import BaseModelError, RefusedError

__all__ = [
    "NO_LABEL",
    "Batch",
    "Kind",
    "LoadedModel",
    "load_bare",
    "load_base",
    "load_teacher",
    "padded",
    "sample_texts",
]

NO_LABEL = -100
"""Stands where there is no label, as in torch's cross entropy."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts of like length.

    Attributes:
        ids: token ids (texts, longest) int64.
        mask: where they are no padding, (texts, longest) bool.
        labels: int64 with `NO_LABEL` where there is none, or None. The classes of the texts (texts,), those of their
            tokens (texts, longest), or the target texts' ids (texts, longest target).
    """

    ids: Tensor
    mask: Tensor
    labels: Tensor | None = None

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())

    @property
    def targets(self) -> Tensor:
        """What a seq2seq model is to write: the labels, and without them the texts themselves."""
        return self.ids.masked_fill(~self.mask, NO_LABEL) if self.labels is None else self.labels


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in float32, frozen and without dropout.

    Attributes:
        layers: the layers that an adapter names.
    """

    model: nn.Module
    kind: Kind
    tokeniser: Tokeniser
    layers: Mapping[str, Layer]

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of a classifier's classes, by index; () for other kinds."""
        if self.kind not in ("classifier", "tokens"):
            return ()
        names: Mapping[int, str] = self._config.id2label
        return tuple(names[index] for index in sorted(names))

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text: the tokeniser's, and those that the model's configuration names."""
        own = getattr(self._config, "eos_token_id", None)
        named = own if isinstance(own, list) else [own]
        return frozenset(token for token in (*named, self.tokeniser.end) if token is not None)

    @property
    def _config(self) -> Any:
        return self.model.config

    def longest(self, max_tokens: int) -> int:
        """`max_tokens`, or fewer if the model has no more positions."""
        positions = getattr(self._config, "max_position_embeddings", None)
        return min(max_tokens, positions - _first_position(self.model)) if positions else max_tokens

    def batches(self, texts: Sequence[str], size: int, max_tokens: int) -> list[Batch]:
        """The texts cut to `max_tokens`, in batches of `size`, short ones first."""
        longest = self.longest(max_tokens)
        ids = [self.tokeniser.encode(text, longest) for text in texts]
        ids = sorted((tokens for tokens in ids if tokens), key=len)
        return [self.batch(ids[start : start + size]) for start in range(0, len(ids), size)]

    def batch(self, ids: Sequence[Sequence[int]], labels: Tensor | None = None) -> Batch:
        """Texts as a batch, padded at their ends, on the model's device."""
        lengths = torch.tensor([len(row) for row in ids])
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
        found = padded(ids, _padding(self._config))
        return Batch(found.to(self.device), mask.to(self.device), None if labels is None else labels.to(self.device))

    def __call__(self, batch: Batch) -> Tensor:
        """What counts of the model's output.

        causal: logits (tokens, vocabulary) of all tokens that are no padding. classifier: logits (texts, classes).
        tokens: logits (tokens, classes). encoder: the mean (texts, hidden) of the last hidden states over the text.
        seq2seq: logits (target tokens, vocabulary), each from the target's tokens before it.
        """
        options: dict[str, Any] = {"use_cache": False} if self.kind in ("causal", "seq2seq") else {}
        if self.kind == "seq2seq":
            options["labels"] = batch.targets
        output = self.model(input_ids=batch.ids, attention_mask=batch.mask.long(), **options)
        if self.kind == "encoder":
            share = batch.mask / batch.mask.sum(1, keepdim=True)
            return (output.last_hidden_state * share.unsqueeze(2)).sum(1)  # type: ignore[no-any-return]
        logits: Tensor = output.logits
        if self.kind == "classifier":
            return logits
        return logits[batch.targets != NO_LABEL] if self.kind == "seq2seq" else logits[batch.mask]

    def rows_labels(self, batch: Batch) -> Tensor | None:
        """The label of each row of the output, (rows,) int64, `NO_LABEL` where there is none.

        A causal model's rows are labelled with the next token. None for an encoder and for a batch without labels.
        """
        if self.kind == "causal":
            follows = functional.pad(batch.mask[:, 1:], (0, 1))
            return batch.ids.roll(-1, 1).masked_fill(~follows, NO_LABEL)[batch.mask]
        if self.kind == "encoder" or batch.labels is None:
            return None
        if self.kind == "classifier":
            return batch.labels
        return batch.labels[batch.mask if self.kind == "tokens" else batch.labels != NO_LABEL]

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Sum over rows of two outputs' KL divergence in nats, or of 1 - cosine for an encoder; differentiable."""
        if self.kind == "encoder":
            return (1 - functional.cosine_similarity(teacher, student)).sum()
        p, q = functional.log_softmax(teacher, 1), functional.log_softmax(student, 1)
        return (p.exp() * (p - q)).sum()


def _first_position(model: nn.Module) -> int:
    """RoBERTa and its kin count positions from the one after padding's."""
    tables = (m for name, m in model.named_modules() if name.endswith("position_embeddings"))
    table = next((table for table in tables if isinstance(table, nn.Embedding)), None)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows of numbers as one tensor (rows, longest) int64, filled up at their ends."""
    longest = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.int64)


def load_teacher(base: Path, adapter: Adapter, device: torch.device, kind: Kind | None = None) -> LoadedModel:
    """The base model in a local folder, with the adapter's updates and extras on it.

    Args:
        kind: what the model is for; None tells it from the adapter and the base (`kind_of`).

    Raises:
        BaseModelError: if the folder can't be loaded or the adapter does not fit.
        RefusedError: if transformers or a tokeniser is missing, or the head is in neither.
    """
    return _load_with(base, adapter, device, kind, add_adapter)


def load_bare(base: Path, adapter: Adapter, device: torch.device, kind: Kind | None = None) -> LoadedModel:
    """The same without the updates: the adapter's extras and what it adds to biases are on the model.

    Raises:
        BaseModelError, RefusedError: as `load_teacher`.
    """
    return _load_with(base, adapter, device, kind, place_extras)


def load_base(base: Path, modules: Sequence[str], device: torch.device) -> LoadedModel:
    """The base model in a local folder as it is: a causal language model, a seq2seq model or an encoder.

    Raises:
        BaseModelError, RefusedError: as `load_teacher`.
    """
    BaseModel.open(base)
    kind = kind_of_base(_load_config(base))
    kind = kind if kind in ("causal", "seq2seq") else "encoder"
    model, _ = _load_model(base, kind, {})
    return _finished(base, model, kind, find_layers(model, modules, base), device)


def _load_with(
    base: Path,
    adapter: Adapter,
    device: torch.device,
    kind: Kind | None,
    put: Callable[[nn.Module, Adapter, Path], dict[str, Layer]],
) -> LoadedModel:
    BaseModel.open(base)
    kind = kind or kind_of(_load_config(base), adapter)
    head = trained_head(adapter)
    if head is not None and kind not in ("classifier", "tokens"):
        raise RefusedError(
            f"the adapter brings the trained head of a classifier, which a model for {kind} has no place for",
            hint="give the task classifier or tokens, or none",
        )
    options = {} if head is None or kind not in ("classifier", "tokens") else {"num_labels": head.shape[0]}
    model, missing = _load_model(base, kind, options)
    lacking = sorted(missing - _covered(missing, adapter))
    if kind in ("classifier", "tokens") and lacking:
        raise RefusedError(
            f"{base}: {lacking[0]} is neither in the base nor in the adapter, so that its classes mean nothing",
            hint="give the adapter with its trained head",
        )
    return _finished(base, model, kind, put(model, adapter, base), device)


def _load_config(base: Path) -> Any:
    if not (base / "config.json").is_file():
        raise BaseModelError(
            f"{base}: holds no config.json, expected the folder of a transformers model",
            hint="give the folder that holds the base model's config.json, weights and tokeniser",
        )
    return load_locally("AutoConfig", base)


def _load_model(base: Path, kind: Kind, options: Mapping[str, Any]) -> tuple[nn.Module, set[str]]:
    """The model, and the names of tensors that the folder lacks."""
    model, info = load_locally(
        LOADERS[kind], base, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    return model, set(info["missing_keys"])


def _covered(missing: set[str], adapter: Adapter) -> set[str]:
    brought = extra_tensors(adapter)
    return {name for name in missing if any(name == other or name.endswith(f".{other}") for other in brought)}


def _finished(
    base: Path, model: nn.Module, kind: Kind, layers: Mapping[str, Layer], device: torch.device
) -> LoadedModel:
    config: Any = model.config
    model.requires_grad_(False)
    model.eval().to(device)
    if kind == "classifier":
        # Classifiers on decoders look for the last token that is no padding.
        config.pad_token_id = _padding(config)
    return LoadedModel(model, kind, load_tokeniser(base, config.vocab_size), layers)


def _padding(config: Any) -> int:
    """The model's own padding token, or 0 where it has none; masks hide it, but some models look for it."""
    own = getattr(config, "pad_token_id", None)
    return own if isinstance(own, int) and 0 <= own < config.vocab_size else 0


def sample_texts(texts: Sequence[str], most: int, seed: int) -> list[str]:
    """At most `most` of the texts, drawn without replacement, in their order."""
    drawn = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))[:most]
    return [texts[place] for place in sorted(drawn.tolist())]
