"""Random changes to files of every kind, each from a seed: what a structured fuzzer feeds to the command line."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from formats.taken_apart import GOLDEN, File

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 8, 31, 2**31 - 1, 2**31, 2**63, 2**70, 10**400, 0.0, -0.0, 0.5, 1e-300, 1e300, 1e30,
    "", "a", "LORA", "LORA.*", "all-linear", "none", "all", "lora_only", "x" * 300, "a\nb", "\x1b[31mred", "\u202eabc",
    "\ud800", "../../etc/passwd", "/abs", "C:\\x", "0", ".", "..", "a.b", "a..b", "lora_A", "m.lora_A.weight", "(",
    "(a+)+$", "(?i)a", "[", "\\", "*", "{0-9}", "{a,b}", "m[0]", "m[00]", "m[1000000]", "svd/1", "lora-sb/1",
    "loretta/1", "vblora/1", "unilora/1", "F32", "F16", "U64", "I8", "BOOL", "Q8", [], {}, [[]], [{}], ["a"], ["m", 1],
    [0, 1], [[0, 4]], {"a": 1}, {"m": 4}, {"(a|a)*b": 4}, {"^m": 2}, {"": 1}, [None], "hf://a/b@c", "default",
    "base_layer", "m.base_layer",
)  # fmt: skip
FIELDS = (
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "modules_to_save", "bias",
    "layers_to_transform", "layers_pattern", "fan_in_fan_out", "use_dora", "use_rslora", "lora_bias", "task_type",
    "peft_type", "base_model_name_or_path", "init_lora_weights", "layer_replication", "target_parameters",
    "trainable_token_indices", "peft_version", "auto_mapping", "revision", "inference_mode", "lora_dropout",
    "megatron_config", "loftq_config", "ensure_weight_tying", "use_qalora", "alora_invocation_tokens", "eva_config",
    "corda_config", "runtime_config",
)  # fmt: skip
_DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn)
_SHAPES = ((-1,), (1, -1), (-1, 1, 1), (1,) * 9 + (-1,))
Draw = random.Random


def value(draw: Draw, depth: int = 0) -> Any:
    """A JSON value that a reader may not expect."""
    kind = draw.random()
    if kind < 0.7 or depth > 2:
        return draw.choice(NASTY)
    if kind < 0.8:
        return [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind < 0.9:
        return {str(draw.choice(NASTY))[:20]: value(draw, depth + 1) for _ in range(draw.randrange(4))}
    return draw.choice(
        [draw.randrange(-(2**33), 2**33), draw.uniform(-10, 10), "".join(draw.choices("ab.0_[]{}\\\n", k=9))]
    )


def changed_json(draw: Draw, whole: Any) -> Any:
    """A JSON value with one of its parts replaced, left out, doubled or added."""
    copy = json.loads(json.dumps(whole))
    places: list[tuple[Any, Any]] = []

    def walk(one: Any) -> None:
        items = list(one.items()) if isinstance(one, dict) else list(enumerate(one)) if isinstance(one, list) else []
        for key, item in items:
            places.append((one, key))
            walk(item)

    walk(copy)
    if not places:
        return value(draw)
    container, key = draw.choice(places)
    act = draw.randrange(4)
    if act == 0 and isinstance(container, list):
        container.insert(key, container[key])
    elif act == 1:
        del container[key]
    elif act == 2 and isinstance(container, dict):
        container[str(draw.choice(NASTY))[:40]] = container[key]
    else:
        container[key] = value(draw)
    return copy


def changed_bytes(draw: Draw, data: bytes) -> bytes:
    """Bytes with some changed, cut or added."""
    found = bytearray(data)
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(len(found) + 1)
        act = draw.randrange(3)
        if act == 0 and place < len(found):
            found[place] ^= 1 << draw.randrange(8)
        elif act == 1:
            del found[place : place + draw.randrange(1, 9)]
        else:
            found[place:place] = draw.randbytes(draw.randrange(1, 5))
    return bytes(found)


def changed_config(draw: Draw, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with one to three fields that say something else."""
    found = dict(config)
    for _ in range(draw.randrange(1, 4)):
        found[draw.choice(FIELDS)] = value(draw)
    return found


def archive(draw: Draw) -> bytes:
    """A `.adz` with a right hash."""
    file = File.open(draw.choice(sorted(path.stem for path in GOLDEN.glob("*.adz"))))
    metadata: Any = dict(file.metadata)
    act = draw.randrange(9)
    if act == 0:
        metadata = changed_json(draw, metadata)
    elif act == 1:
        adapter = changed_config(
            draw, {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "m"]}
        )
        metadata, file = {**metadata, "adapter": [draw.choice([0, 0, 0, 1, 5]), adapter]}, replace(file, config=b"")
    elif act == 2:
        metadata["modules"] = changed_json(draw, metadata["modules"])
    elif act == 3:
        metadata["extras"] = changed_json(draw, metadata.get("extras", [["head.weight", [1], "F32"]]))
    elif act == 4:
        metadata["config"] = {
            **metadata.get("config", {}),
            draw.choice(["rank", "length", "top_k", "lossless"]): value(draw),
        }
    elif act == 5:
        metadata[draw.choice(["dialect", "dtype", "base", "by", "basis", "renamed", "requires", "method"])] = value(
            draw
        )
    elif act == 6:
        header = json.dumps({f"m{value(draw)}": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        file = replace(file, source_header=draw.choice([header, changed_bytes(draw, file.source_header or header)]))
    elif act == 7:
        part = draw.choice(["packed", "shared", "basis", "gains", "sizes", "offsets", "config", "grouped"])
        changes: dict[str, Any] = {part: changed_bytes(draw, getattr(file, part))}
        file = replace(file, **changes)
    else:
        file = replace(file, blocks=tuple(changed_bytes(draw, b) if draw.random() < 0.5 else b for b in file.blocks))
    text = json.dumps(metadata) if draw.random() < 0.97 else changed_bytes(draw, json.dumps(metadata).encode())
    return file.build(file.head(texts=file.texts(text)))


def _tensors(draw: Draw) -> dict[str, torch.Tensor]:
    """Factors and extras of some dialect, mostly right."""
    others = ["", "lora_unet_", "model.diffusion_model.", "transformer."]
    prefix = "base_model.model." if draw.random() < 0.8 else draw.choice(others)
    ends = ("lora_A.weight", "lora_B.weight")
    if draw.random() < 0.2:
        ends = draw.choice([("lora_down.weight", "lora_up.weight"), ("lora_a", "lora_b")])
    found: dict[str, torch.Tensor] = {}
    for name in draw.sample(["m", "layers.0.q_proj", "layers.1.q_proj", "h.0.attn.c_attn", "embed_tokens", "score"], 2):
        rank, out, wide = draw.choice([1, 2, 4]), draw.choice([4, 6]), draw.choice([4, 6])
        found[f"{prefix}{name}.{ends[0]}"] = torch.randn(rank, wide)
        found[f"{prefix}{name}.{ends[1]}"] = torch.randn(out, rank)
        if draw.random() < 0.1:
            found[
                f"{prefix}{name}.{draw.choice(['alpha', 'lora_magnitude_vector', 'bias', 'lora_B.bias', 'dora_scale'])}"
            ] = torch.randn(draw.choice([1, out]))
    if draw.random() < 0.15:
        found[str(draw.choice(NASTY))[:60] + draw.choice(["", ".weight", ".lora_A.weight"])] = torch.randn(2, 3)
    return {key.encode(errors="replace").decode(): tensor for key, tensor in found.items()}


def _strange(draw: Draw, tensor: torch.Tensor) -> Any:
    made: list[Callable[[], Any]] = [
        lambda: tensor.to(draw.choice(_DTYPES)),
        tensor.to_sparse,
        lambda: tensor.to("meta"),
        lambda: tensor * draw.choice([1e30, 1e-40, float("nan"), 0]),
        lambda: tensor.reshape(draw.choice(_SHAPES)),
        lambda: tensor[:0],
        lambda: tensor[:1].expand(5, *tensor.shape[1:]),
        lambda: tensor.mT if tensor.ndim > 1 else tensor,
        lambda: draw.choice(NASTY),
        lambda: [tensor],
        lambda: {"a": tensor},
        lambda: torch.nn.Parameter(tensor),
    ]
    return draw.choice(made)()


def _plain(found: Any, otherwise: torch.Tensor) -> torch.Tensor:
    """What safetensors can hold."""
    plain = isinstance(found, torch.Tensor) and found.layout == torch.strided and not found.is_meta
    return found.detach().clone().contiguous() if plain else otherwise


def source(draw: Draw, folder: Path) -> None:
    """An adapter's folder."""
    tensors: dict[str, Any] = _tensors(draw)
    names = {
        key.removeprefix("base_model.model.").partition(".lora_A")[0]: len(t)
        for key, t in tensors.items()
        if "lora_A" in key
    }
    config: Any = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": list(names) or ["m"],
        "rank_pattern": names,
    }
    if draw.random() < 0.5:
        config = changed_config(draw, config) if draw.random() < 0.8 else changed_json(draw, config)
    text = json.dumps(config).encode()
    (folder / "adapter_config.json").write_bytes(changed_bytes(draw, text) if draw.random() < 0.05 else text)
    if draw.random() < 0.3:
        if draw.random() < 0.5:
            key = draw.choice(list(tensors))
            tensors[key] = _strange(draw, tensors[key])
        path = folder / "adapter_model.bin"
        torch.save(draw.choice([tensors, tensors, {"state_dict": tensors}, list(tensors.values())]), path)
        if draw.random() < 0.2:
            path.write_bytes(changed_bytes(draw, path.read_bytes()))
        return
    if draw.random() < 0.3:
        key = draw.choice(list(tensors))
        tensors[key] = _plain(_strange(draw, tensors[key]), tensors[key])
    data = save(tensors, {"format": "pt"})
    if draw.random() < 0.2:
        data = _with_header(draw, data)
    (folder / "adapter_model.safetensors").write_bytes(data)


def _with_header(draw: Draw, data: bytes) -> bytes:
    """A safetensors file whose header says something else, or is damaged."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    text = json.dumps(changed_json(draw, header)).encode()
    if draw.random() < 0.2:
        text = changed_bytes(draw, text)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def basis(draw: Draw, path: Path, good: Path) -> None:
    """A shared basis."""
    if draw.random() < 0.5:
        with safe_open(good, "pt") as opened:
            told = dict(opened.metadata() or {})
        tensors = load_file(good)
        key = draw.choice(list(tensors))
        tensors[key] = _plain(_strange(draw, tensors[key]), tensors[key])
        if draw.random() < 0.5:
            told[draw.choice([*told, "mean", "x"])] = json.dumps(value(draw))
        save_file(tensors, path, told)
        return
    data = good.read_bytes()
    path.write_bytes(_with_header(draw, data) if draw.random() < 0.7 else changed_bytes(draw, data))


def base(draw: Draw, folder: Path) -> None:
    """A base model's folder, of which one file says something else."""
    config, weights = folder / "config.json", folder / "model.safetensors"
    act = draw.randrange(4)
    if act == 0:
        config.write_text(json.dumps(changed_json(draw, json.loads(config.read_text()))))
    elif act == 1:
        weights.write_bytes(_with_header(draw, weights.read_bytes()))
    elif act == 2:
        index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(weights), "model.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(changed_json(draw, index)))
    else:
        tensors = load_file(weights)
        key = draw.choice(list(tensors))
        tensors[key] = _plain(_strange(draw, tensors[key]), tensors[key])
        save_file(tensors, weights)


def rows(draw: Draw) -> tuple[str, bytes]:
    """The name and content of a file of texts."""
    name = draw.choice(["x.jsonl", "x.json", "x.csv", "x.tsv", "x.txt"])
    good = [{"text": "a b c", "label": 1}, {"text": "d", "label": 0}, {"messages": [{"role": "user", "content": "a"}]}]
    lines = [json.dumps(changed_json(draw, row)) for row in draw.choices(good, k=3)]
    text = (
        "\n".join(lines) if "json" in name else 'text,label\na,1\n"b",2\n' + "".join(map(str, draw.choices(NASTY, k=3)))
    )
    data = text.encode(errors="surrogatepass")
    return name, changed_bytes(draw, data) if draw.random() < 0.5 else data
