"""What a base model's config.json says about its language model, which may be one part of several."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config", "decoder", "generator")
"""Where the configuration of a model of several parts keeps that of its language model."""

_OUTPUTS = (
    ("Blt|Csm|Pop2Piano|Qwen3OmniMoeTalker", None),
    ("Whisper|Moonshine|CohereAsr|Canary", "proj_out.weight"),
    ("T5Gemma", "lm_head.out_proj.weight"),
    ("GPTNeoXJapanese", "embed_out.weight"),
    ("BioGpt|TrOCR", "output_projection.weight"),
    ("XLNet", "lm_loss.weight"),
    ("XLMWith|FlaubertWith", "pred_layer.proj.weight"),
    ("Rwkv", "head.weight"),
    ("Git", "output.weight"),
    ("Kosmos2", "text_model.lm_head.weight"),
    ("SpeechT5", "text_decoder_postnet.lm_head.weight"),
    ("BlipFor", "text_decoder.cls.predictions.decoder.weight"),
    ("Vilt|BridgeTower", "mlm_score.decoder.weight"),
    ("Ultrabert", "head.decoder.weight"),
    (r"(Electra|ConvBert)For(MaskedLM|CausalLM)", "generator_lm_head.weight"),
    ("ModernBertForMaskedLM|ModernBertDecoder", "decoder.weight"),
    ("AlbertFor(MaskedLM|PreTraining)", "predictions.decoder.weight"),
    ("DistilBertForMaskedLM", "vocab_projector.weight"),
    ("(EuroBert|Funnel|ModernVBert|NeoMME|UltraVBert)ForMaskedLM", "lm_head.weight"),
    (
        r"(XLMRoberta|Roberta|Camembert|MPNet|Xmod|Data2VecText|IBert|Esm|Gte|BertGeneration|JinaEmbeddings|Longformer)"
        r"\w*(MaskedLM|CausalLM|Decoder)$",
        "lm_head.decoder.weight",
    ),
    (r"(\w*Bert\w*|BigBird|Ernie|RoFormer|BlipText)(LMHeadModel|ForCausalLM)", "cls.predictions.decoder.weight"),
    (r"\w+For(MaskedLM|PreTraining)$", "cls.predictions.decoder.weight"),
    ("SeamlessM4T", "lm_head.weight"),
    (
        r"\w+(ForCausalLM|LMHeadModel|DoubleHeadsModel|MTModel|ForConditionalGeneration|ForVisionText2Text"
        "|ForCausalImageModeling)$",
        "lm_head.weight",
    ),
)
"""The output embedding that transformers ties to the input's, by the model's class: the first that fits."""


def output_name(config: Mapping[str, Any]) -> str | None:
    """What the model's class calls its output embedding, None where it has none that can be tied."""
    classes = config.get("architectures")
    for model_class in classes if isinstance(classes, list) else ():
        for pattern, name in _OUTPUTS:
            if re.match(pattern, str(model_class)):
                return name
    return None


def text_part(config: Mapping[str, Any]) -> str | None:
    """The key of the part that describes the language model, None where that is the configuration itself."""
    return next((key for key in TEXT_CONFIGS if isinstance(config.get(key), Mapping)), None)


def text_parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The configuration and the parts within it that describe the language model, outermost first."""
    while True:
        yield config
        part = text_part(config)
        if part is None:
            return
        config = config[part]


def says_untied(config: Mapping[str, Any]) -> bool:
    """Whether a configuration says that input and output embeddings are two parameters."""
    said = [part.get("tie_word_embeddings") for part in text_parts(config)]
    return False in said and True not in said
