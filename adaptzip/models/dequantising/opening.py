"""A quantised model's files as those of a float model: recognised by its configuration and its tensors together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adaptzip.core.scratch import Scratch
from adaptzip.errors import RefusedError
from adaptzip.models.adding import row_blocks
from adaptzip.models.dequantising.awq import find_awq
from adaptzip.models.dequantising.bitsandbytes4 import find_four_bits
from adaptzip.models.dequantising.bitsandbytes8 import find_eight_bits
from adaptzip.models.dequantising.compressed import find_compressed
from adaptzip.models.dequantising.float8 import FINDERS as FLOAT8
from adaptzip.models.dequantising.float8 import find_without_scales
from adaptzip.models.dequantising.gptq import find_gptq
from adaptzip.models.dequantising.source import Decoder, Finder, Found, Source
from adaptzip.models.quantised import COMPANION, CONFIG_KEYS, config_tables, quantised_sign
from adaptzip.models.shards import Shard, StoredTensor

_FINDERS: Mapping[str, tuple[Finder, ...]] = {
    "bitsandbytes": (find_four_bits, find_eight_bits),
    "gptq": (find_gptq,),
    "awq": (find_awq,),
    "compressed-tensors": (find_compressed,),
    **{method: (finder,) for method, finder in FLOAT8.items()},
}
"""By quant_method. Without one, eight-bit floats may be weights themselves."""
_BLOCK = 1 << 20
"""Numbers that are decoded at a time."""
_TURNED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Model types whose weights are (inputs, outputs), which quantised files do not tell."""
_OF_ACTIVATIONS = frozenset(
    ("input_scale", "output_scale", "activation_scale", "input_zero_point", "output_zero_point", "input_scale_ub")
    + ("q_scale", "k_scale", "v_scale", "k_zero_point", "v_zero_point")
)
"""What the quantiser of activations and of the cache has beside modules."""
_WITH_ACTIVATIONS = frozenset(("compressed-tensors", *FLOAT8))


@dataclass(frozen=True, eq=False)
class DecodedShard(Shard):
    """A weight file whose quantised weights are read as float32 and said to be bfloat16, as which they are written.

    Attributes:
        path, tensors, loaded: as of every file, with plain names.
        stored: the file as it is.
        found: the quantised weights, by their plain names.
    """

    stored: Shard | None = None
    found: Mapping[str, Found] = field(default_factory=dict)

    def read(self, name: str, rows: tuple[int, int] | None = None, scratch: Scratch | None = None) -> Tensor:
        """A writable copy of one tensor or some of its rows; of a quantised weight float32."""
        if name not in self.found:
            return super().read(name, rows, scratch)
        decoder: Decoder = self.found[name].decoder
        if rows is not None:
            return decoder.rows(*rows)
        whole = torch.empty(decoder.shape)
        for first, last in row_blocks(decoder.shape, _BLOCK):
            whole[first:last] = decoder.rows(first, last)
        return whole

    def lies_plain(self, name: str) -> bool:
        """Whether the file holds the tensor's bytes as they are read."""
        return name not in self.found and super().lies_plain(name)


def decoded_shards(path: Path, config: Mapping[str, Any], shards: Sequence[Shard]) -> tuple[Shard, ...]:
    """The weight files of a model, its quantised weights as float ones under their plain names.

    Args:
        path: the model's folder.
        config: its config.json.
        shards: its weight files.

    Returns:
        The same files where nothing is quantised.

    Raises:
        RefusedError: if its configuration and its tensors disagree, or the scheme is none that is read.
    """
    method, settings = _settings(path, config)
    tensors = {name: shard for shard in shards for name in shard.tensors}
    source = Source(path, tensors)
    if method is not None and method not in _FINDERS:
        raise source.refused(f"is quantised by {method}, expected {', '.join(_FINDERS)}")
    finders = (find_without_scales,) if method is None else _FINDERS[method]
    sign = quantised_sign(stored for shard in shards for stored in shard.tensors.values())
    if method is None and sign is None:
        return tuple(shards)
    _check_form(source, config, shards, method)
    found = {one.name: one for finder in finders for one in finder(source, settings)}
    _check_rest(source, method, found, sign)
    dropped = _dropped(tensors, method, found)
    return tuple(_decoded(shard, found, dropped) for shard in shards)


def found_in(shard: Shard) -> Mapping[str, Found]:
    """The quantised weights of a file, by their plain names."""
    return shard.found if isinstance(shard, DecodedShard) else {}


def stored_in(shard: Shard) -> Mapping[str, StoredTensor]:
    """The entries of a file as it is."""
    return shard.stored.tensors if isinstance(shard, DecodedShard) and shard.stored is not None else shard.tensors


def without_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that says nothing of quantisation, and bfloat16 where it said a dtype."""
    kept = {key: value for key, value in config.items() if key not in CONFIG_KEYS}
    told = {key: "bfloat16" for key in ("torch_dtype", "dtype") if kept.get(key) is not None}
    parts = {k: without_settings(v) for k, v in kept.items() if isinstance(v, Mapping) and k.endswith("config")}
    return kept | told | parts


def is_settings_file(name: str) -> bool:
    """Whether a file is a quantiser's own, which would be wrong beside float weights."""
    return name in ("quantize_config.json", "quant_config.json", "hf_quant_config.json")


def _settings(path: Path, config: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """The method, and the table in config.json that tells it."""
    told = [table[key] for table in config_tables(config) for key in CONFIG_KEYS if table.get(key)]
    if not told:
        return None, {}
    if any(other != told[0] for other in told) or not isinstance(told[0], Mapping):
        raise RefusedError(f"{path}: config.json says in several ways how it is quantised", hint=_HINT)
    method = told[0].get("quant_method")
    if method is None and (told[0].get("load_in_4bit") or told[0].get("load_in_8bit")):
        method = "bitsandbytes"
    if not isinstance(method, str):
        raise RefusedError(f"{path}: config.json says no quant_method", hint=_HINT)
    return method, told[0]


_HINT = "give the original float weights"


def _check_form(source: Source, config: Mapping[str, Any], shards: Sequence[Shard], method: str | None) -> None:
    loaded = next((shard for shard in shards if shard.loaded is not None), None)
    if loaded is not None:
        raise source.refused(f"{loaded.path.name} is quantised and a PyTorch file, expected safetensors")
    if method is not None and str(config.get("model_type")) in _TURNED:
        raise source.refused(f"is a quantised {config['model_type']}, whose weights lie turned")


def _check_rest(source: Source, method: str | None, found: Mapping[str, Found], sign: str | None) -> None:
    """Check that nothing quantised is left over, and that something was found."""
    told = "says nothing of quantisation" if method is None else f"says {method}"
    if not found:
        raise source.refused(f"config.json {told}, its tensors {sign or 'are not quantised'}")
    taken = {name for one in found.values() for name in (one.home, *one.companions)}
    rest = [shard.tensors[name] for name, shard in source.shards.items() if name not in taken]
    left = quantised_sign(stored for stored in rest if not _is_of_activations(stored.name, method))
    if left is not None:
        raise source.refused(f"config.json {told}, but there is {left} as well")
    modules = {one.module for one in found.values()}
    for stored in rest:
        if stored.name in found:
            raise source.refused(f"{stored.name} is there as floats, and quantised as {found[stored.name].home}")
        module, _, last = stored.name.rpartition(".")
        beside = module in modules or module.removesuffix(".weight") in modules
        if beside and (COMPANION.search(last) or last.endswith("g_idx")) and not _is_of_activations(last, method):
            raise source.refused(f"{stored.name} lies beside a weight of {method or 'plain float8'}, which has none")


def _is_of_activations(name: str, method: str | None) -> bool:
    return method in _WITH_ACTIVATIONS and name.rpartition(".")[2] in _OF_ACTIVATIONS


def _dropped(tensors: Mapping[str, Shard], method: str | None, found: Mapping[str, Found]) -> frozenset[str]:
    parts = {name for one in found.values() for name in (one.home, *one.companions)}
    return frozenset(parts | {name for name in tensors if _is_of_activations(name, method)})


def _decoded(shard: Shard, found: Mapping[str, Found], dropped: frozenset[str]) -> DecodedShard:
    here = {name: one for name, one in found.items() if one.home in shard.tensors}
    return DecodedShard(shard.path, dict(_entries(shard, here, dropped)), None, shard, here)


def _entries(shard: Shard, here: Mapping[str, Found], dropped: frozenset[str]) -> Iterator[tuple[str, StoredTensor]]:
    by_home = {one.home: one for one in here.values()}
    for name, stored in shard.tensors.items():
        if name in by_home:
            one = by_home[name]
            yield one.name, replace(stored, name=one.name, dtype=torch.bfloat16, shape=one.decoder.shape, offset=0)
        elif name not in dropped:
            yield name, stored
