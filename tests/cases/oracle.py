"""What PEFT and transformers say of adapters, text by text in float32, with nothing of this package."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer

Numbers = dict[str, float | None]
"""The figures of a row of a table, by name."""


@dataclass(frozen=True)
class Outputs:
    """What a model makes of all texts.

    Attributes:
        rows: (rows, width) float64.
        labels: of each row, -100 where there is none; numbers of its own for each output of several labels and scores.
            None for embeddings.
    """

    rows: Tensor
    labels: Tensor | None


def live(loads: Any, base: Path, adapter: Path, *, updates: bool = True) -> Any:
    """PEFT's model, whose updates may be nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(loads.from_pretrained(base, dtype=torch.float32), adapter).float().eval()
    for module in model.modules():
        if not updates and isinstance(module, LoraLayer):
            # What is added to biases stays, DoRA's magnitudes don't.
            for factors in (*module.lora_B.values(), *module.lora_embedding_B.values()):
                getattr(factors, "weight", factors).data.zero_()
            module.enable_adapters(not any(module.use_dora.values()))
    return model


def outputs(kind: str, model: nn.Module, base: Path, texts: Sequence[str], labels: Sequence[Any]) -> Outputs:
    """One text after another, without padding and without a mask."""
    tokeniser = AutoTokenizer.from_pretrained(base)
    with torch.no_grad():
        parts = [_READERS[kind](model, tokeniser, text, label) for text, label in zip(texts, labels, strict=True)]
    found = None if parts[0][1] is None else torch.cat([part[1] for part in parts if part[1] is not None])
    return Outputs(torch.cat([part[0] for part in parts]).double(), found)


_Read = tuple[Tensor, Tensor | None]


def _causal(model: Any, tokeniser: Any, text: str, label: Any) -> _Read:
    ids = tokeniser(text, return_tensors="pt")["input_ids"]
    return model(input_ids=ids).logits[0], torch.cat([ids[0, 1:], torch.tensor([-100])])


def _seq2seq(model: Any, tokeniser: Any, text: str, label: Any) -> _Read:
    ids = tokeniser(text, return_tensors="pt")["input_ids"]
    target = tokeniser(text_target=label, return_tensors="pt")["input_ids"]
    start = torch.tensor([[model.config.decoder_start_token_id]])
    return model(input_ids=ids, decoder_input_ids=torch.cat([start, target[:, :-1]], 1)).logits[0], target[0]


def _class(model: Any, tokeniser: Any, text: str, label: Any) -> _Read:
    return model(input_ids=tokeniser(text, return_tensors="pt")["input_ids"]).logits, torch.tensor([label])


def _several(model: Any, tokeniser: Any, text: str, label: Any) -> _Read:
    logits, labels = _class(model, tokeniser, text, label)
    return logits, labels.reshape(1, -1) if labels is not None else None


def _tokens(model: Any, tokeniser: Any, text: str, label: Any) -> _Read:
    return model(input_ids=tokeniser(text, return_tensors="pt")["input_ids"]).logits[0], torch.tensor(label)


def _embedding(model: Any, tokeniser: Any, text: str, label: Any) -> _Read:
    return model(input_ids=tokeniser(text, return_tensors="pt")["input_ids"]).last_hidden_state.mean(1), None


_READERS: Mapping[str, Callable[[Any, Any, str, Any], _Read]] = {
    "causal": _causal,
    "seq2seq": _seq2seq,
    "classifier": _class,
    "scores": _several,
    "multilabel": _several,
    "tokens": _tokens,
    "encoder": _embedding,
}


def numbers(kind: str, teacher: Outputs, own: Outputs) -> Numbers:
    """What a model is held to: how far it is from its teacher, and how well it does by the labels."""
    p, q, labels = teacher.rows, own.rows, own.labels
    if kind == "encoder" or labels is None:
        return {"cosine": float((1 - functional.cosine_similarity(p, q)).mean())}
    if kind == "scores":
        return {
            "squared_error": float(functional.mse_loss(q, p)),
            "rank_correlation": _order(q, p),
            "metric": float(functional.mse_loss(q, labels.double())),
            "second": _order(q, labels),
        }
    if kind == "multilabel":
        a, b, chosen = p.sigmoid(), q.sigmoid(), (q > 0).int().numpy()
        return {
            "kl": float((a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()).sum(1).mean()),
            "agreement": accuracy_score((p > 0).flatten(), (q > 0).flatten()),
            "metric": f1_score(labels, chosen, average="micro", zero_division=0),
            "second": f1_score(labels, chosen, average="macro", zero_division=0),
        }
    there = labels != -100
    accuracy = accuracy_score(labels[there], q[there].argmax(1))
    loss = float(functional.cross_entropy(q[there], labels[there]))
    return {
        "kl": float(functional.kl_div(q.log_softmax(1), p.log_softmax(1), log_target=True, reduction="batchmean")),
        "agreement": accuracy_score(p.argmax(1), q.argmax(1)),
        "metric": loss if kind in ("causal", "seq2seq") else accuracy,
    }


def _order(first: Tensor, second: Tensor) -> float:
    """Spearman's, in the mean over outputs."""
    found = [float(spearmanr(a, b)[0]) for a, b in zip(first.T, second.T, strict=True)]
    return sum(found) / len(found)
