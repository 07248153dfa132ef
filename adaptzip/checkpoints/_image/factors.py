"""The update of one module of an image adapter, from its parts: LoRA, LoCon, LoHa, LoKr, whole differences, and DoRA.

The scale is alpha / rank, and 1 without an alpha. For LoKr the rank is that of the second matrix's factors, else of
the first's, and a product of two whole matrices has no scale. LyCORIS: Yeh et al. 2023, arXiv:2309.14859; DoRA:
arXiv:2402.09353.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint
from adaptzip.checkpoints._image.unet import kernel_of
from adaptzip.checkpoints._parts import AGAIN, Parts, misfit, part_of
from adaptzip.checkpoints._products import dense, hadamard, kronecker, tucker
from adaptzip.core.adapter import LoraFactors
from adaptzip.core.layouts import Layout
from adaptzip.errors import AdaptzipError, CheckpointError, RefusedError, warn

LARGEST = 2**27
"""Most numbers in the factors of a module that is a product of full rank; half a GiB in float32."""
_NAMES = {"hada": "LoHa", "lokr": "LoKr", "diff": "whole difference"}
_GROWTH, _SMALL = 4, 2**20
"""How many times more numbers are worth a warning, and how few are not."""
_KINDS = {"hada_": "a LoHa", "lokr_": "a LoKr"}


def factors_of(source: Checkpoint, name: str, keys: Parts, scaling: float | None = None) -> LoraFactors:
    """The factors of one module, a kernel flattened into A.

    Args:
        source: the checkpoint.
        name: the module, for messages.
        keys: the key of each of its parts.
        scaling: the scale where it is known from elsewhere than an alpha.

    Raises:
        CheckpointError: if a part is missing, or they do not fit together.
        RefusedError: if the module is a product of full rank too large to be written out.
    """
    parts = {part: part_of(source, name, keys, part) for part in keys if part != "alpha"}
    algorithms = sorted({_algorithm(part) for part in parts} - {""})
    if len(algorithms) != 1:
        raise CheckpointError(
            f"{source.weights}: module {name} has {', '.join(keys.values())}, expected the parts of one update",
            hint=AGAIN,
        )
    make = {"lora": _lora, "hada": _loha, "lokr": _lokr, "diff": _whole}[algorithms[0]]
    try:
        b, a, kernel, rank = make(source, name, keys, parts)
    except AdaptzipError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{source.weights}: module {name} {error}", hint=AGAIN) from error
    scale = _scale(source, name, keys, rank) if scaling is None else scaling
    kernel = kernel or kernel_of(name, a.shape[1])
    layout: Layout = "conv" if kernel else "linear"
    shape = (b.shape[0], a.shape[1], math.prod(kernel))
    magnitude = _magnitude(source, name, parts, shape, of_peft="lora_magnitude" in keys.get("magnitude", ""))
    return LoraFactors(a, b, scale, layout, kernel, magnitude=magnitude, bias=_bias(source, name, parts, b.shape[0]))


def alpha_of(factors: LoraFactors) -> float:
    """scale * rank, without the last bit's rounding."""
    product = factors.scaling * factors.rank
    return float(round(product)) if math.isclose(product, round(product), rel_tol=1e-12) and product else product


def made_of(parts: Mapping[str, Parts]) -> Mapping[str, dict[str, int]]:
    """How many modules are of which kind, where some are no LoRA."""
    found = Counter(kind for keys in parts.values() for kind in {_algorithm(part) for part in keys} - {"", "lora"})
    named = {_NAMES[kind]: count for kind, count in sorted(found.items())}
    return {"made_of": named} if named else {}


def warn_of_growth(source: Checkpoint, modules: Mapping[str, LoraFactors]) -> None:
    """Say so where a file's products are far larger as plain factors, which is how they are kept and written."""
    plain = sum(factors.parameters for factors in modules.values())
    there = sum(tensor.numel() for tensor in source.tensors.values())
    if plain > _GROWTH * there and plain > _SMALL:
        warn(
            f"{source.weights}: its products of {there:,} numbers have {plain:,} as plain factors, which is how they "
            "are compressed: keep the file, which is smaller"
        )


def _algorithm(part: str) -> str:
    if part in ("down", "up", "mid"):
        return "lora"
    return part[:4] if part.startswith(("hada_", "lokr_")) or part == "diff" else ""


_Made = tuple[Tensor, Tensor, tuple[int, ...], float]
"""B, A, the kernel, and the rank that alpha is divided by; infinity where no scale is meant."""


def _lora(source: Checkpoint, name: str, keys: Parts, parts: Mapping[str, Tensor]) -> _Made:
    down, up = (_need(source, name, keys, part) for part in ("down", "up"))
    ends = up.shape[2:]
    if down.ndim < 2 or up.ndim < 2 or 0 in (*down.shape, *up.shape) or any(size != 1 for size in ends):
        raise _unfit(source, name, down, up)
    if "mid" in parts:
        b, a = tucker(up, down, parts["mid"])
        return b, a, tuple(parts["mid"].shape[2:]), down.shape[0]
    a, b = down.flatten(1), up.flatten(1)
    if a.shape[0] != b.shape[1]:
        grouped = down.ndim > 2 and up.shape[1] and down.shape[0] % up.shape[1] == 0
        if grouped:
            raise RefusedError(
                f"{source.weights}: module {name} has down {list(down.shape)} and up {list(up.shape)}, which is a "
                f"convolution in {down.shape[0] // up.shape[1]} groups",
                hint="train the adapter without grouped convolutions",
            )
        raise _unfit(source, name, down, up)
    return b, a, tuple(down.shape[2:]), down.shape[0]


def _need(source: Checkpoint, name: str, keys: Parts, part: str) -> Tensor:
    """A part of a module that an update of its kind has.

    Raises:
        CheckpointError: if it is missing.
    """
    if part not in keys:
        there = next(key for other, key in keys.items() if _algorithm(other))
        missing = f"lora_{part}.weight" if part in ("down", "up") else part
        raise CheckpointError(f"{source.weights}: module {name} has {there} but no {missing}", hint=AGAIN)
    return part_of(source, name, keys, part)


def _unfit(source: Checkpoint, name: str, down: Tensor, up: Tensor) -> CheckpointError:
    expected = (
        "down (rank, in) and up (out, rank), or a convolution's down (rank, in, *kernel) and up (out, rank, 1, 1)"
    )
    return misfit(source, name, {"down": down, "up": up}, expected)


def _loha(source: Checkpoint, name: str, keys: Parts, parts: Mapping[str, Tensor]) -> _Made:
    w = [_need(source, name, keys, f"hada_{part}") for part in ("w1_a", "w1_b", "w2_a", "w2_b")]
    t1, t2 = parts.get("hada_t1"), parts.get("hada_t2")
    out = w[0].shape[1] if t1 is not None and w[0].ndim > 1 else w[0].shape[0]
    _check_size(source, name, "hada_", out, math.prod(w[1].shape[1:]), w[1].shape[0] * w[3].shape[0])
    b, a = hadamard(w[0], w[1], w[2], w[3], t1, t2)
    kernel = tuple(t1.shape[2:]) if t1 is not None else tuple(w[1].shape[2:])
    return b, a, kernel, w[1].shape[0]


def _lokr(source: Checkpoint, name: str, keys: Parts, parts: Mapping[str, Tensor]) -> _Made:
    w = {part.removeprefix("lokr_"): tensor for part, tensor in parts.items() if part.startswith("lokr_")}
    rank = next((float(w[part].shape[0]) for part in ("w2_b", "w1_b") if part in w), math.inf)
    second = w.get("t2", w.get("w2_b", w.get("w2")))
    sides = [(_extents(w, side)) for side in ("w1", "w2")]
    out, width, most = (math.prod(extent) for extent in zip(*sides, strict=True))
    _check_size(source, name, "lokr_", out, width, most)
    b, a = kronecker(**w)
    return b, a, () if second is None else tuple(second.shape[2:]), rank


def _extents(w: Mapping[str, Tensor], side: str) -> tuple[int, int, int]:
    """Rows, columns and the greatest possible rank of one side of a Kronecker product."""
    if side in w:
        rows, columns = w[side].shape[0], math.prod(w[side].shape[1:])
        return rows, columns, min(rows, columns)
    a, b = (w.get(f"{side}_{end}") for end in ("a", "b"))
    if a is None or b is None:
        return 1, 1, 1  # `kronecker` tells what is missing.
    return max(a.shape), math.prod(b.shape[1:]), b.shape[0]


def _check_size(source: Checkpoint, name: str, kind: str, out: int, width: int, rank: int) -> None:
    """Refuse a product whose plain factors would fill the memory."""
    numbers = min(out, width, rank) * (out + width)
    if numbers > LARGEST:
        raise RefusedError(
            f"{source.weights}: module {name} is {_KINDS[kind]} of rank {min(out, width, rank)} and shape "
            f"[{out}, {width}], whose plain factors have {numbers:,} numbers, expected {LARGEST:,} at most",
            hint="reduce it to a LoRA with the program that trained it",
        )


def _whole(source: Checkpoint, name: str, keys: Parts, parts: Mapping[str, Tensor]) -> _Made:
    diff = parts["diff"]
    b, a = dense(diff.flatten(1))
    return b, a, tuple(diff.shape[2:]), math.inf


def _scale(source: Checkpoint, name: str, keys: Parts, rank: float) -> float:
    if "alpha" not in keys or math.isinf(rank):
        return 1.0
    alpha = source.tensors[keys["alpha"]]
    if alpha.numel() != 1 or not math.isfinite(float(alpha.double())):
        raise CheckpointError(
            f"{source.weights}: {keys['alpha']} of module {name} is {alpha.tolist()}, expected one finite number",
            hint=AGAIN,
        )
    return float(alpha.double()) / rank


def _magnitude(
    source: Checkpoint, name: str, parts: Mapping[str, Tensor], shape: tuple[int, int, int], *, of_peft: bool
) -> Tensor | None:
    """The DoRA magnitude: (out,), or (1, inputs) where the file has one for each input, as OneTrainer writes it.

    PEFT's is for each output always, and that of a convolution (1, out, 1, 1).
    """
    found = parts.get("magnitude")
    if found is None:
        return None
    out, width, size = shape
    ends = [n for n in found.shape[1:] if n != 1]
    if found.numel() == out and (of_peft or not ends):
        return found.reshape(-1)
    if found.shape[0] == 1 and found.numel() == width // size and len(ends) <= 1:
        return found.reshape(1, -1)
    raise CheckpointError(
        f"{source.weights}: module {name} has a DoRA magnitude {list(found.shape)}, expected [{out}, 1], a number for "
        f"each output, or [1, {width // size}], one for each input",
        hint=AGAIN,
    )


def _bias(source: Checkpoint, name: str, parts: Mapping[str, Tensor], out: int) -> Tensor | None:
    """What is added to the base bias after it was multiplied by the scale, (out,)."""
    found = parts.get("bias")
    if found is None:
        return None
    if found.numel() != out:
        raise CheckpointError(
            f"{source.weights}: module {name} has a bias {list(found.shape)}, expected {out} numbers", hint=AGAIN
        )
    return found.reshape(-1)
