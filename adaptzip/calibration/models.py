"""The base model with an adapter on it, run on texts: what it computes, and what its layers see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from adaptzip.adapter import Adapter
from adaptzip.calibration.guests import load_locally
from adaptzip.calibration.layers import Layer, add_adapter, extra_tensors, find_layers
from adaptzip.calibration.tokenisers import Tokeniser, load_tokeniser
from adaptzip.errors import BaseModelError, RefusedError

Kind = Literal["causal", "classifier", "encoder"]
"""causal: next-token distributions. classifier: class distributions. encoder: sentence embeddings."""

_CAUSAL = ("ForCausalLM", "LMHeadModel")
_HEADS = ("classifier.weight", "score.weight", "classifier.out_proj.weight")
_LOADERS = {
    "causal": "AutoModelForCausalLM",
    "classifier": "AutoModelForSequenceClassification",
    "encoder": "AutoModel",
}


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts of like length: token ids (texts, longest) int64, and where they are no padding, bool."""

    ids: Tensor
    mask: Tensor

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())


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

    def batches(self, texts: Sequence[str], size: int, max_tokens: int) -> list[Batch]:
        """The texts cut to `max_tokens`, in batches of `size`, short ones first."""
        longest = getattr(self.model.config, "max_position_embeddings", None) or max_tokens
        ids = [self.tokeniser.encode(text)[: min(max_tokens, longest)] for text in texts]
        ids = sorted((tokens for tokens in ids if tokens), key=len)
        device = next(self.model.parameters()).device
        found = []
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            padded = torch.zeros(len(part), len(part[-1]), dtype=torch.int64)
            mask = torch.zeros_like(padded, dtype=torch.bool)
            for row, tokens in enumerate(part):
                padded[row, : len(tokens)] = torch.tensor(tokens)
                mask[row, : len(tokens)] = True
            found.append(Batch(padded.to(device), mask.to(device)))
        return found

    def __call__(self, batch: Batch) -> Tensor:
        """What counts of the model's output.

        causal: logits (tokens, vocabulary) of all tokens that are no padding. classifier: logits (texts, classes).
        encoder: the mean (texts, hidden) of the last hidden states over the text.
        """
        options = {"use_cache": False} if self.kind == "causal" else {}
        output = self.model(input_ids=batch.ids, attention_mask=batch.mask.long(), **options)
        if self.kind == "classifier":
            logits: Tensor = output.logits
            return logits
        if self.kind == "causal":
            return output.logits[batch.mask]  # type: ignore[no-any-return]
        share = batch.mask / batch.mask.sum(1, keepdim=True)
        return (output.last_hidden_state * share.unsqueeze(2)).sum(1)  # type: ignore[no-any-return]

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Sum over rows of two outputs' KL divergence in nats, or of 1 - cosine for an encoder; differentiable."""
        if self.kind == "encoder":
            return (1 - functional.cosine_similarity(teacher, student)).sum()
        p, q = functional.log_softmax(teacher, 1), functional.log_softmax(student, 1)
        return (p.exp() * (p - q)).sum()


def load_teacher(base: Path, adapter: Adapter, device: torch.device) -> LoadedModel:
    """The base model in a local folder, with the adapter's updates and extras on it.

    A classifier if the adapter brings a trained head or the base has one, else a causal language model if the base's
    config.json says so, else an encoder.

    Raises:
        BaseModelError: if the folder can't be loaded or the adapter does not fit.
        RefusedError: if transformers or a tokeniser is missing, or the head is in neither.
    """
    config = _load_config(base)
    head = next((t for name, t in extra_tensors(adapter).items() if name.endswith(_HEADS) and t.ndim == 2), None)
    kind = _kind(config, head is not None)
    options = {} if head is None else {"num_labels": head.shape[0]}
    model, missing = _load_model(base, kind, options)
    lacking = sorted(missing - _covered(missing, adapter))
    if kind == "classifier" and lacking:
        raise RefusedError(
            f"{base}: {lacking[0]} is neither in the base nor in the adapter, so that its classes mean nothing",
            hint="give the adapter with its trained head",
        )
    layers = add_adapter(model, adapter, base)
    return _finished(base, model, kind, layers, device)


def load_base(base: Path, modules: Sequence[str], device: torch.device) -> LoadedModel:
    """The base model in a local folder as it is: a causal language model or an encoder.

    Raises:
        BaseModelError, RefusedError: as `load_teacher`.
    """
    kind = _kind(_load_config(base), head=False)
    kind = "encoder" if kind == "classifier" else kind
    model, _ = _load_model(base, kind, {})
    return _finished(base, model, kind, find_layers(model, modules, base), device)


def _load_config(base: Path) -> Any:
    if not (base / "config.json").is_file():
        what = "holds no config.json" if base.is_dir() else "is no folder"
        raise BaseModelError(
            f"{base}: {what}, expected the folder of a transformers model",
            hint="give the folder that holds the base model's config.json, weights and tokeniser",
        )
    return load_locally("AutoConfig", base)


def _kind(config: Any, head: bool) -> Kind:
    architectures = config.architectures or ()
    if head or any(name.endswith("ForSequenceClassification") for name in architectures):
        return "classifier"
    return "causal" if any(name.endswith(_CAUSAL) for name in architectures) else "encoder"


def _load_model(base: Path, kind: Kind, options: Mapping[str, Any]) -> tuple[nn.Module, set[str]]:
    """The model, and the names of tensors that the folder lacks."""
    model, info = load_locally(
        _LOADERS[kind], base, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    return model, set(info["missing_keys"])


def _covered(missing: set[str], adapter: Adapter) -> set[str]:
    brought = extra_tensors(adapter)
    return {name for name in missing if any(name == other or name.endswith(f".{other}") for other in brought)}


def _finished(
    base: Path, model: nn.Module, kind: Kind, layers: Mapping[str, Layer], device: torch.device
) -> LoadedModel:
    model.requires_grad_(False)
    model.eval().to(device)
    return LoadedModel(model, kind, load_tokeniser(base, model.config.vocab_size), layers)  # type: ignore[union-attr, arg-type]


def sample_texts(texts: Sequence[str], most: int, seed: int) -> list[str]:
    """At most `most` of the texts, drawn without replacement, in their order."""
    drawn = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))[:most]
    return [texts[place] for place in sorted(drawn.tolist())]
