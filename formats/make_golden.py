"""Make golden/: small valid files, and the tensors that they must decode to.

usage: python -m formats.make_golden

The files are committed and only ever added to: what a reader of version 1 once read, it reads for good. Making one
again may give other bytes, because the fit depends on the machine's linear algebra; decoding never does.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adaptzip.adz.coding.coders import Coder
from adaptzip.adz.coding.decoding import decode_shared
from adaptzip.adz.coding.grouping import alone, decode_group
from adaptzip.adz.container import writer
from adaptzip.adz.container.adapter_config import read_config
from adaptzip.adz.container.reader import open_adz
from adaptzip.bases.artefact import write_basis
from adaptzip.bases.frames import first_values, frames_of_start
from adaptzip.bases.starts.generators import Place, whole_numbers
from adaptzip.bases.updates import build_basis
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.basis import Basis, BasisReference, Start
from adaptzip.core.compressed import Compressed, ExtraEntry, PackedExtras, Provenance
from adaptzip.core.function_method import AnyFunctionMethod, FunctionMethod
from adaptzip.core.meta import Meta
from adaptzip.core.sensitivity import Sensitivity
from adaptzip.core.training_report import TrainingReport
from adaptzip.distillation.quantising import code
from adaptzip.distillation.tensors import Tensors
from adaptzip.files.dtypes import DTYPES, NAMES
from adaptzip.fitting.assembly import stored_options
from adaptzip.fitting.banks import build_bank
from adaptzip.fitting.compression import compress, make_from
from adaptzip.fitting.loading import load_source
from adaptzip.fitting.requests import Request, configure
from adaptzip.fitting.surveys import sites_of
from adaptzip.methods import load
from adaptzip.restoring.reconstruction import coder_of, holds_functions, reconstruct, reconstruct_native

FOLDER = Path(__file__).resolve().parent / "golden"
TEAM = FOLDER / "team.basis"
"""The basis that some files name."""
BANK = FOLDER / "team.bank"
"""The bank that some files name."""
FIRST = FOLDER / "default.adz"
"""The adapter that some files refer to."""
BASE = FOLDER / "base"
"""The base model in whose directions some files are."""
APART = {
    "layouts",
    "extras",
    "gains",
    "lora-sb-embedded",
    "vblora-k2",
    "vblora-k3-levels",
    "loretta-delta",
    "finest",
    "unilora",
}
"""Files whose modules are blocks of their own, as those of large files are; of the others most are grouped."""
NEAR = {"lora-xs": "B", "lora-sb": "B", "loretta": "AB", "loretta-adp": "AB"}
"""Factors that decoders may round differently in the last bit, by method; with frames of base weights also A of svd."""
REPORT = TrainingReport(
    900, 100, 48, 50, "accuracy", (1.25, 0.5, 0.5), (0, 1, 0.9), (0.625, 0.75, None), (0.0625, 0.96875, 0.875)
)


def factors(out: int, width: int, rank: int, seed: int, **options: Any) -> LoraFactors:
    """Random factors with a falling spectrum."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, width, generator=generator)
    B = torch.randn(out, rank, generator=generator) * 0.6 ** torch.arange(rank)
    return LoraFactors(A, B, **options)


def mixed() -> Adapter:
    """Two layers of three shapes, named as a language model's are."""
    shapes = {"self_attn.q_proj": (48, 32), "self_attn.v_proj": (16, 32), "mlp.down_proj": (32, 80)}
    modules = {
        f"model.layers.{layer}.{name}": factors(*shape, 4, seed=10 * layer + i, scaling=0.5)
        for layer in range(2)
        for i, (name, shape) in enumerate(shapes.items())
    }
    config = {"r": 4, "lora_alpha": 2, "base_model_name_or_path": "some/model", "peft_type": "LORA"}
    return Adapter(modules, {}, Meta(config=config))


def brief() -> Adapter:
    """The same, with factors of bfloat16."""
    source = mixed()
    modules = {n: replace(m, A=m.A.bfloat16(), B=m.B.bfloat16()) for n, m in source.modules.items()}
    return replace(source, modules=modules)


def spiky() -> Adapter:
    """Rows with single numbers far outside, which take escapes, beside tiny shapes."""
    module = factors(24, 40, 3, seed=1)
    module.A[0, 5], module.A[2, 0], module.B[7, 1] = 900.0, -300.0, 40.0
    return Adapter({"m": module, "one": factors(1, 1, 1, seed=2), "row": factors(1, 9, 1, seed=3)})


def uneven() -> Adapter:
    """Modules so different in strength that weak ones vanish; one is zero from the start."""
    modules = {f"h.{i}": factors(30, 20, 3, seed=i, scaling=0.3**i) for i in range(4)}
    modules["h.4"] = LoraFactors(torch.zeros(3, 20), torch.zeros(30, 3))
    return Adapter(modules)


def wide() -> Adapter:
    """A tensor of 32768 numbers and more, which is dealt to short chains."""
    A = torch.randn(8, 4200, generator=torch.Generator().manual_seed(5))
    return Adapter({"wide": LoraFactors(A, torch.eye(12, 8))})


def layouts() -> Adapter:
    """Every layout, a DoRA magnitude, a bias, and names that patterns must escape."""
    return Adapter(
        {
            "c.{x}, \\y": factors(8, 27, 2, seed=1, layout="conv", kernel=(3, 3)),
            "c.fc": factors(12, 8, 2, seed=2, layout="transposed", magnitude=torch.rand(12) + 1),
            "experts.w[0]": factors(8, 12, 2, seed=3, layout="expert"),
            "experts.w[1]": factors(8, 12, 2, seed=4, layout="expert_transposed"),
            "wte.é-1": factors(6, 50, 2, seed=5, layout="embedding"),
            "z": factors(9, 7, 2, seed=6, bias=torch.arange(9.0), magnitude=torch.ones(9)),
        }
    )


def extras() -> Adapter:
    """An extra of every dtype, and those that are packed in a special way."""
    generator = torch.Generator().manual_seed(7)
    plain = torch.randn(6, 5, generator=generator)
    tensors = {f"x.{name}": (plain * 3).to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {
        "bf16 in f32": torch.randn(40, generator=generator).bfloat16().float(),
        "f16 in f32": torch.randn(40, generator=generator).half().float(),
        "specials": torch.tensor([float("nan"), -0.0, 0.0, float("inf"), -float("inf"), 1e-45]),
        "payload": torch.tensor([0x7FC12345, 0x7F800001, -1], dtype=torch.int32).view(torch.float32),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "zeros": torch.zeros(100, 10),
        "head.weight": torch.randn(12, 64, generator=generator),
    }
    return Adapter({"m": factors(8, 6, 1, seed=1)}, tensors)


def skewed() -> Adapter:
    """An extra so long and so uneven that its plane is coded by ANS."""
    rare = torch.rand(40000, generator=torch.Generator().manual_seed(8)) < 0.03
    return Adapter({"m": factors(8, 6, 1, seed=1)}, {"rare": rare})


def mixed_dtypes() -> Adapter:
    """Factors of several dtypes and ranks, one with more ranks than its shape, and the source's header."""
    modules = {
        "a": factors(6, 9, 2, seed=1, scaling=1 / 3),
        "b": factors(4, 3, 5, seed=2, scaling=2.0),
        "c": LoraFactors(torch.ones(1, 3).half(), torch.full((2, 1), 0.1).bfloat16(), 0.25),
    }
    head = torch.arange(4.0).bfloat16().float()
    return Adapter(modules, {"head": head}, Meta(config={"r": 2}, header=b'{"made":"up"}', config_text='{ "r": 2 }\n'))


def odd() -> Adapter:
    """Prime widths, and a module beside them that is zero."""
    shapes = {"p": (31, 37), "q": (64, 48), "r": (50, 13), "s": (7, 96)}
    modules = {name: factors(*shape, 4, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    return Adapter(modules | {"z": LoraFactors(torch.zeros(2, 31), torch.zeros(31, 2))})


def odd_configuration() -> Adapter:
    """A configuration that JSON proper can't hold."""
    return replace(mixed(), meta=Meta(config={"r": 4, "lora_dropout": float("nan"), "note": "\ud800"}))


def usual_configuration() -> Adapter:
    """A configuration of PEFT's usual fields but for a few, from before one was new."""
    config = read_config([4, {"r": 4, "lora_alpha": 2.0, "target_modules": ["q_proj"], "revision": "a"}, "bias"])
    return replace(mixed(), meta=Meta(config=config))


def ranked() -> Adapter:
    """Modules of ranks 1 to 6, whose cores have different sizes."""
    return Adapter({f"h.{i}.w": factors(24 + i, 40 - i, 1 + i, seed=20 + i, scaling=0.8**i) for i in range(6)})


def begun(generator: str) -> Adapter:
    """Modules whose A moved a little from a generator's numbers, to `BEGUN`, in three dtypes, and one that is none."""
    modules = {}
    for i, (name, place) in enumerate(PLACES.items()):
        first = first_values(generator, whole_numbers(generator, SEED, place))
        noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(40 + i)) / place.width**0.5
        B = factors(20 + 4 * i, place.width, place.rank, seed=50 + i).B
        modules[name] = LoraFactors((first + noise / 8).to(_BEGUN_DTYPES[i]), B, 0.5)
    return Adapter(modules | {"h.9.w": factors(16, 30, 2, seed=49)})


PLACES = {"h.0.w": Place(7, 4, 40), "h.1.w": Place(300, 3, 33), "h.2.v": Place(1000, 5, 40)}
SEED = 42
_BEGUN_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def alike() -> Adapter:
    """Modules whose A are near those of `FIRST`, but for one."""
    modules = dict(mixed().modules)
    for i, (name, module) in enumerate(reconstruct(FIRST).modules.items()):
        A = module.A + module.A.std() / 8 * factors(1, module.shape[1], module.rank, seed=60 + i).A
        B = factors(module.shape[0], 1, module.rank, seed=70 + i).B
        modules[name] = LoraFactors(A, B)
    last = max(modules)
    return Adapter(modules | {last: mixed().modules[last]})


def kin() -> Adapter:
    """Modules whose A and B are near those that `TEAM` was built of, but for one."""
    modules = dict(mixed().modules)
    for i, (name, module) in enumerate(list(modules.items())[:-1]):
        A = module.A + factors(1, module.shape[1], module.rank, seed=80 + i).A / 8
        B = module.B + factors(module.shape[0], 1, module.rank, seed=90 + i).B / 8
        modules[name] = LoraFactors(A, B)
    last = max(modules)
    return Adapter(modules | {last: factors(*modules[last].shape, 3, seed=99)})


def principal() -> Adapter:
    """Modules whose A are near the first directions of `BASE`, as PiSSA begins."""
    modules = {}
    for i, (name, weight) in enumerate(sorted(load_file(BASE / "model.safetensors").items())):
        V = torch.linalg.svd(weight.double())[2][:4].float()
        A = V + V.std() / 8 * factors(1, V.shape[1], 4, seed=80 + i).A
        modules[name.removesuffix(".weight")] = LoraFactors(A, factors(len(weight), 1, 4, seed=90 + i).B)
    return Adapter(modules)


def write_base() -> None:
    """A base model of two linear layers."""
    BASE.mkdir(exist_ok=True)
    shapes = {"h.0.w": (24, 32), "h.1.w": (16, 40)}
    weights = {f"{name}.weight": factors(*shape, 16, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    save_file({name: (m.B @ m.A).half() for name, m in weights.items()}, BASE / "model.safetensors")
    (BASE / "config.json").write_text('{"model_type": "plain"}\n')


CASES: Mapping[str, tuple[Callable[[], Adapter], dict[str, Any]]] = {
    "coarse": (mixed, {"max_error": 0.5}),
    "default": (mixed, {}),
    "dtype": (brief, {}),
    "fine": (mixed, {"max_error": 0.002}),
    "finest": (spiky, {"max_error": 2e-4}),
    "escapes": (spiky, {"max_error": 0.002}),
    "vanishing": (uneven, {"max_error": 0.12}),
    "wide": (wide, {"max_error": 0.8}),
    "layouts": (layouts, {"max_error": 0.2}),
    "extras": (extras, {}),
    "extras-float16": (extras, {"extras": "float16"}),
    "extras-bfloat16": (extras, {"extras": "bfloat16"}),
    "extras-int8": (extras, {"extras": "int8"}),
    "extras-skewed": (skewed, {}),
    "pieces": (mixed, {"max_error": 0.4, "filler": 140_000}),
    "odd-configuration": (odd_configuration, {"max_error": 0.5}),
    "usual-configuration": (usual_configuration, {"max_error": 0.5}),
    "lossless": (mixed_dtypes, {"lossless": True}),
    "start-uniform": (partial(begun, "uniform"), {"generator": "uniform"}),
    "start-normal": (partial(begun, "normal"), {"generator": "normal"}),
    "start-mlx": (partial(begun, "mlx"), {"generator": "mlx"}),
    "start-lossless": (partial(begun, "uniform"), {"lossless": True, "generator": "uniform"}),
    "start-lossless-normal": (partial(begun, "normal"), {"lossless": True, "generator": "normal"}),
    "frame-reference": (alike, {"max_error": 0.05, "start": FIRST}),
    "frame-base": (principal, {"max_error": 0.05, "start": "base", "base": BASE}),
    "frame-file": (mixed, {"max_error": 0.2, "basis": TEAM, "start": "auto", "sides": 1}),
    "frame-both": (kin, {"max_error": 0.1, "basis": TEAM, "start": "auto", "sides": 2}),
    "gains": (mixed, {"max_error": 0.2, "weights": True}),
    "vblora-k1": (odd, {"to": "vblora", "rank": 3, "length": 7, "vectors": 20, "top_k": 1}),
    "vblora-k1-large": (odd, {"to": "vblora", "rank": 2, "length": 4, "vectors": 260, "top_k": 1}),
    "vblora-k2": (
        mixed,
        {"to": "vblora", "rank": 3, "length": 8, "vectors": 30, "top_k": 2},
    ),
    "vblora-k2-large": (
        mixed,
        {"to": "vblora", "rank": 2, "length": 4, "vectors": 300, "top_k": 2},
    ),
    "vblora-k3-levels": (
        odd,
        {"to": "vblora", "rank": 2, "length": 9, "vectors": 12, "top_k": 3, "levels": 16},
    ),
    "vblora-two-vectors": (odd, {"to": "vblora", "rank": 2, "length": 5, "vectors": 2, "top_k": 2, "max_error": 0.995}),
    "vblora-bank": (mixed, {"to": "vblora", "basis": BANK, "max_error": 0.7}),
    "vblora-bank-embedded": (mixed, {"to": "vblora", "basis": BANK, "embed_basis": True, "max_error": 0.75}),
    "lora-sb-embedded": (ranked, {"to": "lora-sb", "max_error": 0.05}),
    "lora-sb-ranks": (uneven, {"to": "lora-sb", "max_error": 0.3}),
    "lora-sb-gains": (mixed, {"to": "lora-sb", "max_error": 0.2, "weights": True}),
    "lora-sb-file": (mixed, {"to": "lora-sb", "basis": TEAM, "max_error": 0.1}),
    "lora-xs-embedded": (mixed, {"to": "lora-xs", "basis": TEAM, "embed_basis": True, "max_error": 0.1}),
    "unilora": (odd, {"to": "unilora", "numbers": 90, "seed": 7}),
    "unilora-frame": (partial(begun, "uniform"), {"to": "unilora", "numbers": 100, "generator": "uniform"}),
    "loretta-delta": (odd, {"to": "loretta", "order": "delta", "max_error": 0.1}),
    "loretta-delta-coarse": (mixed, {"to": "loretta", "order": "delta", "max_error": 0.5}),
    "loretta-rep": (
        odd,
        {"to": "loretta", "order": "rep", "rank": 3, "max_error": 0.8},
    ),
    "loretta-gains": (odd, {"to": "loretta", "max_error": 0.3, "weights": True}),
    "distilled": (mixed, {"max_error": 0.3, "distilled": REPORT}),
    "loretta-adp": (
        mixed,
        {"to": "loretta-adp", "layers": "q_proj,down_proj", "bottleneck": 6, "rank": 3, "bias": "both"},
    ),
    "loretta-adp-tanh": (
        odd,
        {"to": "loretta-adp", "layers": "p,q,r,s,z", "activation": "tanh", "bias": "none", "rank": 4},
    ),
    "loretta-adp-wide": (
        odd,
        {"to": "loretta-adp", "layers": "q,s", "bottleneck": 96, "activation": "relu", "rank": 9},
    ),
}


def describe(tensor: Tensor) -> list[Any]:
    """[dtype, shape, SHA-256 of the elements in memory order] of a tensor."""
    memory = bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return [NAMES[tensor.dtype], list(tensor.shape), hashlib.sha256(memory).hexdigest()]


def outline(tensor: Tensor) -> list[Any]:
    """[dtype, shape, norm, first numbers] of a tensor whose last bits are free."""
    flat = tensor.double().reshape(-1)
    return [NAMES[tensor.dtype], list(tensor.shape), float(flat.norm()), flat[:16].tolist()]


def expectation(path: Path) -> dict[str, Any]:
    """What a file decodes to."""
    adapter = read_back(path)
    extras = {f"extra {name}": describe(tensor) for name, tensor in adapter.extras.items()}
    for name, module in adapter.modules.items():
        parts = {"magnitude": module.magnitude, "bias": module.bias}
        extras |= {f"{role} {name}": describe(part) for role, part in parts.items() if part is not None}
    near = free(path)
    modules = {
        name: {key: (outline if key in near else describe)(getattr(module, key)) for key in "AB"}
        | {"scaling": module.scaling}
        for name, module in adapter.modules.items()
    }
    found = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "modules": modules, "extras": extras}
    return found if open_adz(path).lossless else found | {"stored": stored(path)}


def free(path: Path) -> str:
    """The factors of a file whose last bits are free."""
    compressed = open_adz(path)
    if compressed.lossless:
        return ""
    of_base = compressed.basis is not None and compressed.basis.source == "base"
    return NEAR.get(compressed.method, "A" if of_base else "")


def read_back(path: Path) -> Adapter:
    """The adapter in a file; of functions, their matrices in its place."""
    compressed = open_adz(path)
    if holds_functions(compressed):
        return reconstruct_native(compressed)[1]
    return reconstruct(path, **beside(path))


def beside(path: Path) -> dict[str, Any]:
    """What a file needs beside itself to be decoded."""
    reference = open_adz(path).basis
    needed = {"file": {"basis": TEAM}, "reference": {"basis": FIRST}, "base": {"base": BASE}, "bank": {"basis": BANK}}
    return {} if reference is None else needed.get(reference.source, {})


def stored(path: Path) -> dict[str, Any]:
    """The stored tensors of each module and of all together, by role, before anything is made of them."""
    compressed = open_adz(path)
    roles = load(compressed.method).shared_roles
    coder = coder_of(compressed, **beside(path))
    shared = {} if coder.given else decode_shared(coder, compressed.shared, compressed.step)
    decoded, _ = reconstruct_native(compressed, **beside(path))
    found = {
        name: {r: describe(t) for r, t in module.tensors.items() if r not in roles and not r.startswith("basis.")}
        for name, module in decoded.items()
    }
    return {"modules": found, "shared": {role: describe(tensor) for role, tensor in shared.items()}}


def write(make: Callable[[], Adapter], path: Path, options: Mapping[str, Any]) -> None:
    """Compress an adapter; with `weights`, as calibration has it that gives each module four times the last's; with
    `distilled`, as if it had been trained; with `filler`, and an extra of so many bytes that are kept as they are."""
    plain: dict[str, Any] = {"start": "none"}
    plain |= {
        key: value for key, value in options.items() if key not in ("weights", "distilled", "filler", "generator")
    }
    method = load(plain.get("to", "svd"))
    if isinstance(method, FunctionMethod):
        write_functions(make(), path, method, {k: v for k, v in plain.items() if k not in ("to", "start")})
        return
    if "filler" in options:
        count = options["filler"]
        packed = PackedExtras((ExtraEntry("extra", "filler", "U8", (count,), "U8"),), plane(filler(count)))
        writer.write(replace(compress(make(), **plain), extras=packed), path)
        return
    if "generator" in options:
        write_begun(make(), path, options["generator"], {k: v for k, v in plain.items() if k != "start"})
        return
    if "distilled" in options:
        compressed = compress(make(), **plain)
        provenance = replace(compressed.provenance, distilled=options["distilled"])
        writer.write(replace(compressed, provenance=provenance), path)
        return
    if "weights" not in options:
        compress(make(), path, **plain)
        return
    own = {name: plain.pop(name) for name in ("start", "to", "max_error") if name in plain}
    request = Request(**own, options=plain)
    source = load_source(make(), request)
    names = sorted(source.adapter.modules)
    source = replace(source, sensitivities={name: Sensitivity(4.0**i / 7) for i, name in enumerate(names)})
    writer.write(make_from(source, request).compressed, path)


def write_begun(adapter: Adapter, path: Path, generator: str, options: Mapping[str, Any]) -> None:
    """A file of modules that begin with a generator's numbers; lossless, of a method of its own, or at an error."""
    own = {name: value for name, value in options.items() if name not in ("to", "lossless")}
    said = {name: value for name, value in options.items() if name not in own}
    start = Start(generator, SEED, tuple(place.offset for place in PLACES.values()), 0.97)
    sizes = {name: place.rank for name, place in PLACES.items()}
    modules = frames_of_start(start, sites_of(adapter), sizes)
    request = Request(start="none", **said, options=own, max_error=None if said else 0.05)
    source = load_source(adapter, request)
    frames = Basis(modules, BasisReference("start", max(sizes.values()), start=start))
    writer.write(make_from(replace(source, frames=frames), request).compressed, path)


def filler(count: int) -> bytes:
    """Bytes that repeat after a prime number."""
    return (bytes(range(251)) * (count // 251 + 1))[:count]


def plane(data: bytes) -> bytes:
    """A plane of packed tensors that is kept as it is."""
    return struct.pack("<BQ", 0, len(data)) + data


def separate(path: Path) -> None:
    """Write a file again with a block for each module."""
    compressed = open_adz(path)
    coder = coder_of(compressed, **beside(path))
    found = decode_group(coder, compressed.grouped, compressed.step)
    chunks = [alone(coder, found[name][0]).chunk if name in found else b"" for name in compressed.sites]
    writer.write(replace(compressed, grouped=b"", chunks=chunks), path, force=True)


def write_functions(adapter: Adapter, path: Path, method: AnyFunctionMethod, options: Mapping[str, Any]) -> None:
    """A file of functions drawn at random behind an adapter's modules, one of them the identity."""
    config = configure(method, options)
    sites = method.places({name: module.shape[0] for name, module in adapter.modules.items()}, config)
    ranks = {name: config.rank for name in list(sites)[1:]}
    generator = torch.Generator().manual_seed(9)
    modules = {
        name: {role: torch.randn(tensor.shape, generator=generator) / 4 for role, tensor in tensors.items()}
        for name, tensors in method.start(sites, ranks, config, 9).items()
    }
    coded, _ = code(Coder(method, config, sites, config.rank), Tensors({}, modules, ranks), 0.125)
    compressed = Compressed(
        method=method.name,
        method_version=method.version,
        config=stored_options(config),
        sites=sites,
        max_rank=config.rank,
        chunks=[coded.modules[name].chunk if name in ranks else b"" for name in sites],
        step=0.125,
        provenance=Provenance("adaptzip", 0, None, 1.0, coded.numbers, 9),
        meta=adapter.meta.described,
    )
    writer.write(compressed, path)


def main() -> None:
    """Make every file that is not there yet."""
    FOLDER.mkdir(exist_ok=True)
    if not BASE.exists():
        write_base()
    if not TEAM.exists():
        write_basis(build_basis([mixed()], 4), TEAM)
    if not BANK.exists():
        build_bank([mixed(), odd()], BANK, rank=3, length=8, vectors=60, top_k=2, device="cpu")
    expected = {}
    for name, (make, options) in CASES.items():
        path = FOLDER / f"{name}.adz"
        if not path.exists():
            write(make, path, options)
            if name in APART:
                separate(path)
        expected[path.name] = expectation(path)
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
