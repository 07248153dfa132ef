"""What llama.cpp calls the modules of transformers' models, and how it turns their rows.

Tensor names are those of the library gguf (`gguf.tensor_mapping`). It knows names of many programs for one tensor, so
that each architecture here says which modules transformers has in it: no others are written, and these are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from torch import Tensor

from adaptzip.checkpoints._config import shown
from adaptzip.errors import RefusedError, UsageError

EMBEDDING = "token_embd.weight"
_ATTENTION = tuple(f"self_attn.{side}_proj" for side in "qkvo")
_MLP = tuple(f"mlp.{name}_proj" for name in ("gate", "up", "down"))
_LAYERS = ("num_hidden_layers", "n_layer")


@dataclass(frozen=True)
class Architecture:
    """One of llama.cpp's, as far as transformers' models of it have linear layers.

    Attributes:
        name: llama.cpp's name, as `general.architecture` has it.
        modules: the modules of each layer.
        layers: where the layers are.
        whole: modules outside of the layers, of bases whose head and embedding are not tied.
        permuted: whether the rows of q and k are turned, as convert_hf_to_gguf.py does it.
        transposed: whether the base's weights lie as (in, out).
    """

    name: str
    modules: tuple[str, ...] = _ATTENTION + _MLP
    layers: str = "model.layers"
    whole: tuple[str, ...] = ("model.embed_tokens", "lm_head")
    permuted: bool = False
    transposed: bool = False


_LLAMA = Architecture("llama", permuted=True)
_TWO_LAYERS = (*_ATTENTION, "mlp.up_proj", "mlp.down_proj")
_C_LAYERS = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
_QKV_DENSE = (*_ATTENTION[:3], "self_attn.dense")
BY_MODEL_TYPE: Mapping[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": Architecture("llama", _ATTENTION, permuted=True),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "qwen2_moe": Architecture("qwen2moe", (*_ATTENTION, *(f"mlp.shared_expert.{m[4:]}" for m in _MLP))),
    "qwen3_moe": Architecture("qwen3moe", _ATTENTION),
    "gemma": Architecture("gemma", whole=()),
    "gemma2": Architecture("gemma2", whole=()),
    "gemma3_text": Architecture("gemma3", whole=()),
    "phi": Architecture("phi2", (*_QKV_DENSE, "mlp.fc1", "mlp.fc2")),
    "phi3": Architecture("phi3", ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")),
    "gpt2": Architecture("gpt2", _C_LAYERS, "transformer.h", (), transposed=True),
    "gpt_bigcode": Architecture("starcoder", _C_LAYERS, "transformer.h", ()),
    "starcoder2": Architecture("starcoder2", (*_ATTENTION, "mlp.c_fc", "mlp.c_proj")),
    "stablelm": Architecture("stablelm"),
    "olmo": Architecture("olmo", permuted=True),
    "olmo2": Architecture("olmo2"),
    "olmo3": Architecture("olmo2"),
    "olmoe": Architecture("olmoe", _ATTENTION),
    "cohere": Architecture("command-r", whole=()),
    "cohere2": Architecture("cohere2", whole=()),
    "granite": Architecture("granite", permuted=True),
    "nemotron": Architecture("nemotron", _TWO_LAYERS),
    "exaone4": Architecture("exaone4"),
    "smollm3": Architecture("smollm3", permuted=True),
    "seed_oss": Architecture("seed_oss"),
    "ernie4_5": Architecture("ernie4_5"),
    "hunyuan_v1_dense": Architecture("hunyuan-dense"),
    "arcee": Architecture("arcee", _TWO_LAYERS, permuted=True),
    "glm4": Architecture("glm4", (*_ATTENTION, "mlp.gate_up_proj", "mlp.down_proj")),
}
"""By the `model_type` of config.json; those whose conversion changes no linear layer in another way, and with which
llama.cpp was seen to compute what transformers does."""
_REORDERED = "the rows of query_key_value, in which it has queries, keys and values of a head together"
_CHANGED: Mapping[str, str] = {
    "bloom": _REORDERED,
    "falcon": _REORDERED,
    "gpt_neox": _REORDERED,
    "deepseek_v2": "kv_b_proj, which it cuts in two by heads, of which it turns one",
    "deepseek_v3": "kv_b_proj, which it cuts in two by heads, of which it turns one",
    "granitemoe": "input_linear, of which it makes two",
}
"""What llama.cpp's conversion changes of other models, so that factors would have to be changed as well."""
_BY_NAME: Mapping[str, Architecture] = {found.name: found for found in reversed([*BY_MODEL_TYPE.values()])}
"""By llama.cpp's names; of two model types with one name the first has all modules of the other."""


def of_base(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a base model by its config.json.

    Raises:
        RefusedError: if it is none of those.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in _CHANGED:
        raise RefusedError(
            f"the base's model_type is {kind!r}, of which llama.cpp's conversion changes {_CHANGED[kind]}",
            hint="merge the adapter into its base model, and convert that",
        )
    if not isinstance(kind, str) or kind not in BY_MODEL_TYPE:
        raise RefusedError(
            f"the base's model_type is {shown(kind)}, whose tensors in GGUF are not known here",
            hint=f"known: {', '.join(BY_MODEL_TYPE)}; export `as_='peft'` and convert with llama.cpp's own script",
        )
    return BY_MODEL_TYPE[kind]


def named(name: str) -> Architecture | None:
    """The architecture that llama.cpp calls so, None where it is none of those."""
    return _BY_NAME.get(name)


def known_names() -> tuple[str, ...]:
    """llama.cpp's names of all architectures."""
    return tuple(sorted(_BY_NAME))


def of_file(name: str, where: object) -> Architecture:
    """The architecture that a file names.

    Raises:
        RefusedError: if it is none of those.
    """
    if name not in _BY_NAME:
        raise RefusedError(
            f"{where}: is for the architecture {shown(name)}, expected one of {', '.join(_BY_NAME)}",
            hint="give the PEFT adapter that it was made from",
        )
    return _BY_NAME[name]


def library() -> ModuleType:
    """The package gguf.

    Raises:
        RefusedError: if it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise RefusedError("GGUF needs the package gguf", hint="pip install 'adaptzip[gguf]'") from error
    found: ModuleType = gguf
    return found


def tensor_name(architecture: Architecture, module: str) -> str | None:
    """What llama.cpp calls a module's weight, or None where it has none."""
    if module in architecture.whole:
        return _whole(architecture)[module]
    found = re.fullmatch(rf"{re.escape(architecture.layers)}\.(0|[1-9]\d*)\.(.+)", module)
    if found is None or found[2] not in architecture.modules:
        return None
    return f"blk.{found[1]}.{_within(architecture)[found[2]]}"


def module_name(architecture: Architecture, tensor: str) -> str | None:
    """The module whose weight llama.cpp calls `tensor`, or None where there is none."""
    outside = {name: module for module, name in _whole(architecture).items()}
    if tensor in outside:
        return outside[tensor]
    found = re.fullmatch(r"blk\.(0|[1-9]\d*)\.(.+)", tensor)
    within = {name: module for module, name in _within(architecture).items()}
    if found is None or found[2] not in within:
        return None
    return f"{architecture.layers}.{found[1]}.{within[found[2]]}"


def layer_number(module: str) -> int:
    """The layer that a module is in, or -1 for one outside of the layers."""
    found = re.search(r"\.(\d+)\.", module)
    return -1 if found is None else int(found[1])


def layer_count(config: Mapping[str, Any]) -> int:
    """How many layers a base model has.

    Raises:
        UsageError: if its config.json does not tell.
    """
    return _whole_number(config, *_LAYERS)


def heads(config: Mapping[str, Any]) -> tuple[int, int]:
    """How many heads of queries and of keys a base model has.

    Raises:
        UsageError: if its config.json does not tell.
    """
    count = _whole_number(config, "num_attention_heads")
    return count, count if config.get("num_key_value_heads") is None else _whole_number(config, "num_key_value_heads")


def heads_of(module: str, of: tuple[int, int]) -> int | None:
    """How many heads lie in the rows of a module, where llama.cpp turns them."""
    return {"q_proj": of[0], "k_proj": of[1]}.get(module.rpartition(".")[2])


def permuted(rows: Tensor, count: int) -> Tensor:
    """Rows (out, r) of q or k as llama.cpp's rotary embedding has them: in each head the halves are interleaved."""
    return rows.reshape(count, 2, -1, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def unpermuted(rows: Tensor, count: int) -> Tensor:
    """The inverse of `permuted`."""
    return rows.reshape(count, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


@cache
def _within(architecture: Architecture) -> dict[str, str]:
    """The tensor of each module of a layer, without the layer's number."""
    found = {module: _mapped(architecture, f"{architecture.layers}.0.{module}") for module in architecture.modules}
    return {module: tensor.removeprefix("blk.0.") for module, tensor in found.items()}


@cache
def _whole(architecture: Architecture) -> dict[str, str]:
    return {module: _mapped(architecture, module) for module in architecture.whole}


def _mapped(architecture: Architecture, module: str) -> str:
    gguf = library()
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture.name)
    found: str | None = gguf.get_tensor_name_map(kind, 1).get_name(module)
    if found is None:
        raise RefusedError(f"the package gguf has no tensor for {module} of {architecture.name}", hint="update gguf")
    return f"{found}.weight"


def _whole_number(config: Mapping[str, Any], *fields: str) -> int:
    value = next((config[field] for field in fields if field in config), None)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"the base's config.json has {shown(value)} for {fields[0]}, expected a number from 1 on")
    return value
