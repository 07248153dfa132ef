"""The base model with an adapter on it, loaded from a local folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from adaptzip.core.adapter import Adapter
from adaptzip.errors import RefusedError, warn, without_warnings
from adaptzip.models.folder import BaseModel
from adaptzip.models.guests import able_kinds, check_class, is_within, load_config, load_locally
from adaptzip.models.heads import head_among, trained_head
from adaptzip.models.kinds import LOADERS, OF_TEXTS, WITH_HEAD, Kind, check_task, kind_of, kind_of_base, settled_kind
from adaptzip.models.live.batch import NO_LABEL, Batch, padded
from adaptzip.models.live.complete import Parts, check_complete, check_embeds, naming_base
from adaptzip.models.live.layers import Layer, add_adapter, find_layers, place_extras
from adaptzip.models.live.loaded import LoadedModel, text_config, tokens_of
from adaptzip.models.live.unknown import check_known, forget, grow_vocabulary
from adaptzip.models.pooling import Pooling, read_pooling
from adaptzip.models.texts.tokenisers import Tokeniser, load_tokeniser

__all__ = [
    "NO_LABEL",
    "Batch",
    "Kind",
    "LoadedModel",
    "Loading",
    "load_bare",
    "load_base",
    "load_teacher",
    "padded",
    "sample_texts",
]


@dataclass(frozen=True)
class Loading:
    """How a model is loaded, beside what.

    Attributes:
        kind: what the model is for; None tells it from the adapter and the base (`kind_of`).
        merged: updates of a weight that several layers share count in all of them, as in a merged model; else only in
            the layer that the adapter names, as in the live model.
        tokeniser: a folder whose tokeniser is taken; None takes the base's.
        tell: warn where an update counts otherwise in the live model than in a merged one, and of tokens that the
            adapter adds and the tokeniser lacks.
        strict: refuse a classifier that comes without any head, instead of taking it for what the base is; its task can
            be named instead.
    """

    kind: Kind | None = None
    merged: bool = False
    tokeniser: Path | None = None
    tell: bool = False
    strict: bool = False


def load_teacher(
    base: Path, adapter: Adapter, device: torch.device, kind: Kind | None = None, *, loading: Loading | None = None
) -> LoadedModel:
    """The base model in a local folder, with the adapter's updates and extras on it.

    Args:
        kind: what the model is for; None tells it from the adapter and the base (`kind_of`).
        loading: more about how; its own kind counts where `kind` is None.

    Raises:
        BaseModelError: if the folder can't be loaded or the adapter does not fit.
        RefusedError: if transformers or a tokeniser is missing, the head is in neither, or it is one whose outputs are
            not compared.
    """
    return _load_with(base, adapter, device, kind, loading or Loading(), updates=True)


def load_bare(
    base: Path, adapter: Adapter, device: torch.device, kind: Kind | None = None, *, loading: Loading | None = None
) -> LoadedModel:
    """The same without the updates: the adapter's extras and what it adds to biases are on the model.

    Raises:
        BaseModelError, RefusedError: as `load_teacher`.
    """
    return _load_with(base, adapter, device, kind, loading or Loading(), updates=False)


def load_base(base: Path, modules: Sequence[str], device: torch.device, tokeniser: Path | None = None) -> LoadedModel:
    """The base model in a local folder as it is: a causal language model, a seq2seq model or an encoder.

    Args:
        tokeniser: a folder whose tokeniser is taken; None takes the base's.

    Raises:
        BaseModelError, RefusedError: as `load_teacher`.
    """
    BaseModel.open(base)
    config = load_config(base)
    kind = kind_of_base(config)
    kind = kind if kind in ("causal", "seq2seq") else "encoder"
    loader = _loader(config, kind)
    check_class(base, config, loader, kind)
    tokens = load_tokeniser(tokeniser or base)
    loaded = _load_model(base, loader, {})
    check_complete(base, kind, loaded)
    return _finished(base, loaded.model, kind, find_layers(loaded.model, modules, base), device, tokens)


def _load_with(
    base: Path, adapter: Adapter, device: torch.device, kind: Kind | None, loading: Loading, *, updates: bool
) -> LoadedModel:
    given = kind or loading.kind
    opened = BaseModel.open(base)
    architectures = opened.config.get("architectures") or ()
    check_task(adapter, architectures, given, strict=loading.strict)
    config = load_config(base)
    own_head = None if architectures else head_among(opened.tensors)
    kind = given or kind_of(config, adapter, able_kinds(config), strict=loading.strict, own_head=own_head)
    loader = _loader(config, kind)
    check_class(base, config, loader, kind)
    tokens = load_tokeniser(loading.tokeniser or base)
    head = trained_head(adapter)
    options = {} if head is None or kind not in WITH_HEAD else {"num_labels": head.shape[0]}
    with naming_base(adapter, kind, tasks=loading.strict):
        loaded = _load_model(base, loader, options)
        model = loaded.model
        find_layers(model, adapter.modules, base)
        if kind == "encoder":
            check_embeds(base, model.eval())
        awaited = check_complete(base, kind, loaded, adapter, tasks=loading.strict)
        kind = settled_kind(kind, model.config, given is not None)
        before = tokens_of(model)
        unknown = {**forget(model, awaited), **grow_vocabulary(model, adapter)}
        if loading.tell:
            _tell_of_tokens(before, model, tokens)
        put = add_adapter if updates else place_extras
        with nullcontext() if loading.tell else without_warnings():
            layers = put(model, adapter, base, merged=loading.merged)
            check_known(model, unknown, base)
            return _finished(base, model, kind, layers, device, tokens)


def _tell_of_tokens(before: int, model: Any, tokens: Tokeniser) -> None:
    """Warn where none of the tokens that an adapter adds to the base's is the tokeniser's."""
    added = tokens_of(model) - before
    if added > 0 and tokens.size <= before:
        warn(f"the adapter adds {added} tokens, which the tokeniser does not know: texts are read without them")


def _load_model(base: Path, loader: str, options: Mapping[str, Any]) -> Parts:
    """The model, and which of its tensors the folder lacks or has in another shape."""
    model, info = load_locally(
        loader, base, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    other = {name: (list(found), list(taken)) for name, found, taken in info["mismatched_keys"]}
    return Parts(model, set(info["missing_keys"]), other)


def _loader(config: Any, kind: Kind) -> str:
    """transformers' class; a language model within a larger model, and an encoder without its decoder, have others."""
    named = tuple(config.architectures or ())
    if kind == "causal" and not named and is_within(config):
        return "AutoModelForImageTextToText"
    if kind == "causal" and any(name.endswith("ForConditionalGeneration") for name in named):
        return "AutoModelForCausalLM" if config.is_encoder_decoder else "AutoModelForImageTextToText"
    half = config.is_encoder_decoder or any(name.endswith("EncoderModel") for name in named)
    return "AutoModelForTextEncoding" if kind == "encoder" and half else LOADERS[kind]


def _finished(
    base: Path,
    model: nn.Module,
    kind: Kind,
    layers: Mapping[str, Layer],
    device: torch.device,
    tokens: Tokeniser,
) -> LoadedModel:
    config: Any = text_config(model.config)
    model.requires_grad_(False)
    model.eval().to(device)
    own_pad = _padding(config, None) is not None
    pad = _padding(config, tokens)
    if kind in OF_TEXTS:
        # Classifiers on decoders look for the last token that is no padding.
        config.pad_token_id = pad
    if kind == "seq2seq":
        # What targets are filled up with, where nothing is looked at.
        config.pad_token_id = pad or 0
        _settle_start(base, model)
    pooling = read_pooling(base) if kind == "encoder" else Pooling()
    return LoadedModel(model, kind, tokens, layers, pad, pooling=pooling, own_pad=own_pad)


def _padding(config: Any, tokeniser: Tokeniser | None) -> int | None:
    """The model's own padding token, or else the tokeniser's, where the model has an embedding for it."""
    found = (getattr(config, "pad_token_id", None), tokeniser and tokeniser.pad)
    return next((pad for pad in found if isinstance(pad, int) and 0 <= pad < config.vocab_size), None)


def _settle_start(base: Path, model: Any) -> None:
    """What the decoder begins with may stand in generation_config.json alone."""
    if getattr(model.config, "decoder_start_token_id", None) is not None:
        return
    start = getattr(getattr(model, "generation_config", None), "decoder_start_token_id", None)
    if start is None and _begins_by_itself(model):
        return
    if start is None:
        raise RefusedError(
            f"{base}: neither config.json nor generation_config.json has a decoder_start_token_id",
            hint="add the token that the decoder was trained to begin with",
        )
    model.config.decoder_start_token_id = start


def _begins_by_itself(model: Any) -> bool:
    """Whether a decoder's first token is told by what it is to write, as in MBart."""
    try:
        return model.prepare_decoder_input_ids_from_labels(torch.ones(1, 2, dtype=torch.int64)) is not None
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return False


_Text = TypeVar("_Text")


def sample_texts(texts: Sequence[_Text], most: int, seed: int) -> list[_Text]:
    """At most `most` of the texts, drawn without replacement, in their order."""
    drawn = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))[:most]
    return [texts[place] for place in sorted(drawn.tolist())]
