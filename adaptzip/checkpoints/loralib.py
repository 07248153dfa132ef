"""loralib, the LoRA of the paper's authors: a state_dict() with lora_A and lora_B, of the adapter or the whole model.

Hu et al. 2021, arXiv:2106.09685. The file holds `<module>.lora_A` (rank, in) and `.lora_B` (out, rank), and the update
is lora_alpha / rank * B A; that of an embedding has `in` for its vocabulary. A fused weight may have factors of some of
its parts alone, see `_merged_linear`, and a convolution's are larger, see `_square_convolution`. No file says
lora_alpha; config.json or --alpha does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from adaptzip.checkpoints._base import Checkpoint, Signature
from adaptzip.checkpoints._merged_linear import spread, switches
from adaptzip.checkpoints._parts import Parts, is_embedding, misfit, needed_base, part_of
from adaptzip.checkpoints._square_convolution import groups_of, unrolled
from adaptzip.checkpoints._state_dict import StateDict, alpha_of, layout_fits, layout_of, weight_shapes
from adaptzip.core.adapter import LoraFactors
from adaptzip.errors import RefusedError, warn


class _Loralib(StateDict):
    """The dialect `loralib`. Numbers stay as they are; factors of parts have zeros where the others' rows are, and
    convolutions have them between the copies of A."""

    name = "loralib"
    title = "loralib"
    judged_by = "the authors' saved updates"
    lacks = "convolutions in groups; those without the base model"
    signature = (Signature(r"^(?!base_model\.model\.).*\.lora_[AB]$", "a loralib LoRA"),)
    own = ".lora_"
    parts = "lora_[AB]"

    def sniff(self, source: Checkpoint) -> float:
        """Its keys are AdaLoRA's too, which has one more."""
        return 0.0 if any(key.endswith(".lora_E") for key in source.tensors) else super().sniff(source)

    def _classified(self, source: Checkpoint) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
        modules, others = super()._classified(source)
        return modules, {_outer(name, modules): key for name, key in others.items()}

    def factors(
        self, source: Checkpoint, raw: Mapping[str, Any], modules: Mapping[str, Parts], others: Mapping[str, str]
    ) -> dict[str, LoraFactors]:
        alpha, given = alpha_of(source, raw), raw.get("enable_lora")
        shapes = weight_shapes(source, modules, others)
        enabled = None if given is None else switches(given, source.path)
        return {name: _factors(source, name, keys, shapes[name], alpha, enabled) for name, keys in modules.items()}


def _outer(name: str, modules: Collection[str]) -> str:
    """The model's name for a tensor; newer layers hold the convolution itself: theirs is `<module>.conv.weight`."""
    module, _, leaf = name.rpartition(".conv.")
    return f"{module}.{leaf}" if module in modules else name


def _factors(
    source: Checkpoint,
    name: str,
    keys: Parts,
    shape: tuple[int, ...] | None,
    alpha: float,
    given: tuple[bool, ...] | None,
) -> LoraFactors:
    """Factors of a module whose weight has that shape, where it is known; `given` is enable_lora where it is."""
    A, B = (part_of(source, name, keys, part) for part in ("lora_A", "lora_B"))
    found = {"lora_A": A, "lora_B": B}
    if A.ndim != 2 or B.ndim != 2 or 0 in (*A.shape, *B.shape):
        raise misfit(source, name, found, "lora_A (rank, in) and lora_B (out, rank)")
    rank, width = B.shape[1], A.shape[1]
    if shape is None and "conv" in name.rpartition(".")[2].lower():
        needed_base(source, f"to tell how large the kernel of {name} is")
    if shape is not None and len(shape) > 2:
        return _convolution(source, name, A, B, shape, alpha)
    if is_embedding(name) and A.shape[0] == rank:
        return LoraFactors(A, B, alpha / rank, "embedding")
    plain = A.shape[0] == rank and layout_fits(shape, B.shape[0], width)
    if not plain:
        enabled = given or _told(source, name, A, B, shape)
        whole = spread(A, B, enabled)
        if whole is None or not layout_fits(shape, whole.shape[0], width):
            weight = "" if shape is None else f" of a weight {list(shape)}"
            expected = f"lora_A (rank, in) and lora_B (out, rank){weight}, or of some of its equal parts"
            raise misfit(source, name, found, expected)
        B = whole
    return LoraFactors(A, B, alpha / rank, layout_of(shape, B.shape[0], width))


def _convolution(
    source: Checkpoint, name: str, A: Tensor, B: Tensor, shape: tuple[int, ...], alpha: float
) -> LoraFactors:
    """Factors of a convolution's weight (out, in, *kernel).

    Raises:
        RefusedError: if it has groups.
        CheckpointError: if the shapes do not fit together.
    """
    groups = groups_of(A, B, shape)
    if groups > 1:
        raise RefusedError(
            f"{source.weights}: module {name} is a convolution in {groups} groups, which share rows of its factors",
            hint="train the adapter without grouped convolutions",
        )
    whole = unrolled(A, B, shape)
    if whole is None:
        expected = f"lora_A (k * rank, in * k) and lora_B (out * k, k * rank) of a weight {list(shape)} with k x k"
        raise misfit(source, name, {"lora_A": A, "lora_B": B}, expected)
    return LoraFactors(*whole, alpha * shape[2] / A.shape[0], "conv", shape[2:])


def _told(source: Checkpoint, name: str, A: Tensor, B: Tensor, shape: tuple[int, ...] | None) -> tuple[bool, ...]:
    """Which of a fused weight's parts have factors, as shapes tell it; two of three are taken for q and v.

    Raises:
        RefusedError: if the weight's shape is not known, or does not tell which parts they are.
        CheckpointError: if the shapes do not fit together.
    """
    if shape is None:
        needed_base(source, f"to tell which parts of {name}'s weight its factors are for")
    out = 0 if shape is None or len(shape) != 2 or A.shape[1] not in shape else shape[0] * shape[1] // A.shape[1]
    groups, rest = divmod(A.shape[0], B.shape[1])
    if rest or not out or B.shape[0] % groups or out % (B.shape[0] // groups):
        found = {"lora_A": A, "lora_B": B}
        raise misfit(source, name, found, f"those of a weight {list(shape or ())}, or of some of its equal parts")
    parts = out // (B.shape[0] // groups)
    if parts == groups:
        return (True,) * parts
    if (groups, parts) != (2, 3):
        raise RefusedError(
            f"{source.weights}: module {name} has factors of {groups} of {parts} parts of its weight, and nothing says "
            "of which",
            hint='give a file with {"lora_alpha": ..., "enable_lora": [true, false, ...]} by `config=`',
        )
    warn(
        f"{source.weights}: nothing says of which two of three parts {name} and its like have factors; they are taken "
        "for the first and the third, q and v, as in loralib's own GPT-2 (`config=` with enable_lora tells others)"
    )
    return (True, False, True)


DIALECT = _Loralib()
