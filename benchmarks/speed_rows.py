"""Rows 1 to 7 of the speed benchmark: adaptzip's calls, most of them beside other libraries' in the same process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed_lines import Line, Measured
from benchmarks.speed_runs import Child, Sample, Side, Spread, apart, ratios, seconds, spread, together
from benchmarks.speed_shop import Shape, Shop

FULL = 32
"""Layers of the 7B shape that a file of 10 MB is made of: memory, one module and the bank are judged there."""
OURS, THEIRS = "adaptzip", "peer"
_ERROR = {"max_error": 0.1}
_PLAIN = {**_ERROR, "start": "none"}
_MODULES = {"largest": "mlp.down_proj", "smallest": "self_attn.q_proj"}


def decode(shop: Shop, shape: Shape) -> Measured:
    """Row 1: an archive to tensors in memory, beside safetensors' load and save of the same tensors."""
    archive, tensors = shop.archive(shape), shop.tensors(shape)
    ours = Side(OURS, "decode", {"archive": str(archive)})
    theirs = Side(THEIRS, "save_again", {"source": str(tensors), "output": str(shop.memory / "again.safetensors")})
    child = together([ours, theirs], shop.pairs)
    name = f"decode / save_file(load_file), {shape.name}"
    return [_ratio(child, name, bar=1.5, moonshot=0.7), *_told(child, "decode", "save_file(load_file)", shape)], []


def half(shop: Shop, shape: Shape) -> Measured:
    """Row 2: gigabytes of float16 that are decoded in a second."""
    side = Side(OURS, "decode", {"archive": str(shop.archive(shape)), "dtype": "float16"})
    child = together([side], shop.pairs)
    size = 2 * child.found[OURS]["numbers"] / 1e9
    wall, cpu = (spread([size / taken for taken in column]) for column in zip(*child.later[OURS], strict=True))
    name = f"decode to float16, {shape.name}"
    return [Line(name, wall, cpu, unit="GB/s", bar=0.3, moonshot=0.6, least=True)], []


def export(shop: Shop, shape: Shape) -> Measured:
    """Row 3: an archive to a folder of its own dialect, beside reading and writing that folder."""
    child = together(_folders(shop, shape, shop.memory, durable=False), shop.pairs)
    name = f"export / read and write, {shape.name}"
    on_disk = _folders(shop, shape, shop.disk, durable=True)
    cold = apart(on_disk, shop.pairs)
    whole = {side: [child.whole for child in children] for side, children in cold.items()}
    return [
        _ratio(child, name, bar=1.5, moonshot=1.0),
        *_told(child, "export", "read and write", shape),
        _ratio(together(on_disk, shop.pairs), f"{name}, to disk and synced"),
        Line(f"{name}, whole process, to disk and synced", *ratios(whole[OURS], whole[THEIRS])),
    ], []


def _folders(shop: Shop, shape: Shape, folder: Path, *, durable: bool) -> list[Side]:
    """adaptzip always syncs what it wrote, which costs nothing in memory."""
    source = shop.exported(shape)
    again = {"source": str(source), "output": f"{folder}/rewritten", "durable": durable}
    ours = Side(OURS, "export", {"archive": str(shop.archive(shape)), "output": f"{folder}/again"})
    return [ours, Side(THEIRS, "rewrite", again)]


def compress(shop: Shop, shape: Shape) -> Measured:
    """Row 4: compressing, beside `zstd -19` on one thread and the same file, warm and cold, at each effort."""
    sides = [_effort(shop, shape, "default"), _effort(shop, shape, "fast"), _zstd(shop, shape)]
    warm = together(sides, shop.pairs)
    cold = _inside(apart(sides, shop.pairs, warm.modules))
    alone = apart(
        [_effort(shop, shape, "best"), *(_effort(shop, shape, e, plain=True) for e in ("default", "fast"))], 1
    )
    found = {**warm.found, **{name: children[0].found[name] for name, children in alone.items()}}
    lines = []
    for name, bars in {"default": (0.25, 0.1), "fast": (0.1, None)}.items():
        for where, taken in {"in process": warm.later, "cold": cold}.items():
            pair = ratios(taken[name], taken[THEIRS])
            what = f"compress, {name} effort / zstd -19, {where}, {shape.name}"
            lines.append(Line(what, *pair, bar=bars[0], moonshot=bars[1], judged="both"))
    lines.append(_larger(found, "fast, no start", "default, no start", shape, 1.03))
    lines.append(_larger(found, "fast", "default", shape, None))
    lines.append(_seconds(f"compress, default, {shape.name}, first of a process", [warm.first["default"]]))
    once = {name: [children[0].first[name]] for name, children in alone.items()}
    lines += [_seconds(f"compress, {name}, {shape.name}", taken) for name, taken in {**warm.later, **once}.items()]
    sizes = ", ".join(f"{name} {told['bytes']:,.0f}" for name, told in found.items())
    error = found["default"]["relative_error"]
    size = f"{shape.name}: {shop.size(shape):,} bytes become, by effort, {sizes} (peer: zstd -19)"
    return lines, [f"{size}; relative error {error:.4f}."]


def _effort(shop: Shop, shape: Shape, effort: str, *, plain: bool = False) -> Side:
    name = f"{effort}, no start" if plain else effort
    output = shop.memory / f"{name}.adz"
    options = {"source": str(shop.adapter(shape)), "output": str(output), "effort": effort}
    return Side(name, "compress", {**options, **(_PLAIN if plain else _ERROR)})


def _zstd(shop: Shop, shape: Shape) -> Side:
    return Side(THEIRS, "zstd", {"source": str(shop.adapter(shape)), "output": str(shop.memory / "zstd")})


def _larger(found: Mapping[str, Mapping[str, float]], one: str, other: str, shape: Shape, bar: float | None) -> Line:
    share = found[one]["bytes"] / found[other]["bytes"]
    return Line(f"file, {one} / {other}, {shape.name}", Spread(share, share, share), bar=bar)


def memory(shop: Shop, shape: Shape) -> Measured:
    """Row 5: peak memory beyond that of a process that imports the same and does nothing."""
    file = str(shop.archive(shape))
    packing = {"source": str(shop.adapter(shape)), "output": str(shop.memory / "memory.adz"), **_ERROR}
    made = [
        ("compress", "source file", Side(OURS, "compress", packing), shop.size(shape), 1.5),
        ("decode", "output", Side(OURS, "decode", {"archive": file}), shop.tensors(shape).stat().st_size, 1.1),
    ]
    lines = []
    for name, beside, side, size, bar in made:
        worked = apart([side], shop.pairs)[OURS]
        idle = [together([], 0, modules=child.modules) for child in worked]
        beyond = [a.peak - b.peak for a, b in zip(worked, idle, strict=True)]
        what = f"peak memory of {name} beyond importing / {beside}, {shape.name}"
        lines.append(Line(what, spread([peak / size for peak in beyond]), bar=_full(shape, bar)))
        lines.append(Line(f"peak memory of {name}, whole process, {shape.name}", _megabytes(worked), unit="MB"))
    return lines, []


def _megabytes(children: list[Child]) -> Spread:
    return spread([child.peak / 1e6 for child in children])


def one_module(shop: Shop, shape: Shape) -> Measured:
    """Row 6: one module of an opened archive, a module of another layer each time."""
    lines = []
    archive, tensors = shop.archive(shape), str(shop.tensors(shape))
    for which, kind in _MODULES.items():
        names = [f"model.layers.{layer}.{kind}" for layer in range(shape.layers or 0)]
        ours = Side(OURS, "one_module", {"archive": str(archive), "names": names})
        child = together([ours, Side(THEIRS, "two_tensors", {"source": tensors, "names": names})], 4 * shop.pairs)
        name = f"one module, the {which}, {shape.name}"
        bars = {"bar": _full(shape, 5.0), "moonshot": _full(shape, 2.0)} if which == "largest" else {}
        lines += [_milliseconds(name, child.later[OURS], **bars)]
        lines += [_milliseconds(f"{name}, first of a process", [child.first[OURS]])]
        lines += [_milliseconds(f"{name}, safetensors' reading of the same tensors", child.later[THEIRS])]
    size = f"the archive has {archive.stat().st_size:,} bytes"
    return lines, [f"{size}; its process decodes nothing else, and reads each module of another layer."]


def bank(shop: Shop, shape: Shape) -> Measured:
    """Row 7: vblora's bank of 2,048 vectors of length 256 for modules of rank 16."""
    child = together([Side(OURS, "bank", {"source": str(shop.adapter(shape))})], shop.pairs)
    what = f"vblora's bank, {shape.name}"
    line = Line(what, *seconds(child.later[OURS]), unit="s", bar=_full(shape, 15.0))
    return [line, _seconds(f"{what}, first of a process", [child.first[OURS]])], []


def cuda(shop: Shop, shape: Shape) -> Measured:
    """A CUDA device beside the processor, and whether both reach the same error."""
    source, lines = str(shop.adapter(shape)), []
    for name, task, options in (
        ("compress", "compress", {"source": source, "output": str(shop.memory / "cuda.adz"), **_ERROR}),
        ("decode", "decode", {"archive": str(shop.archive(shape))}),
    ):
        sides = [Side(device, task, {**options, "device": device}) for device in ("cuda", "cpu")]
        child = together(sides, shop.pairs)
        lines.append(
            Line(f"{name} on CUDA / on the CPU, {shape.name}", *ratios(child.later["cuda"], child.later["cpu"]))
        )
        if task == "compress":
            apart_ = abs(child.found["cuda"]["relative_error"] - child.found["cpu"]["relative_error"])
            lines.append(Line("relative error on CUDA from the CPU's", Spread(apart_, apart_, apart_), bar=1e-5))
    return lines, []


def _full(shape: Shape, bar: float) -> float | None:
    """A bar that holds at the full size alone."""
    return bar if (shape.layers or 0) >= FULL else None


def _ratio(child: Child, name: str, **bars: Any) -> Line:
    return Line(name, *ratios(child.later[OURS], child.later[THEIRS]), **bars)


def _told(child: Child, ours: str, theirs: str, shape: Shape) -> list[Line]:
    """Seconds of both sides, and what the first call of a process takes."""
    names = {OURS: ours, THEIRS: theirs}
    later = [_seconds(f"{names[side]}, {shape.name}", child.later[side]) for side in names]
    return later + [_seconds(f"{names[side]}, {shape.name}, first of a process", [child.first[side]]) for side in names]


def _seconds(what: str, samples: Sequence[Sample]) -> Line:
    return Line(what, *seconds(samples), unit="s")


def _milliseconds(what: str, samples: Sequence[Sample], **bars: Any) -> Line:
    thousands = [Sample(1e3 * sample.wall, 1e3 * sample.cpu) for sample in samples]
    return Line(what, *seconds(thousands), unit="ms", **bars)


def _inside(cold: Mapping[str, list[Child]]) -> dict[str, list[Sample]]:
    """The work of processes of their own, imports taken out."""
    return {name: [child.first[name] for child in children] for name, children in cold.items()}
