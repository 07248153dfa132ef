"""The options of this package's methods, as type checkers know them."""

from __future__ import annotations

from typing import Literal, TypedDict


class MethodOptions(TypedDict, total=False):
    """What the methods of this package take by name; see `adaptzip methods METHOD` for what each means.

    A method of another package has options of its own, and one whose option is called as something else here has it
    in `options`.
    """

    activation: Literal["gelu", "relu", "tanh"]
    bias: Literal["none", "down", "both"]
    bottleneck: int
    floor: float | None
    layers: str | None
    length: int | None
    levels: int
    lora_rank: int | None
    memory: float
    min_energy: float
    numbers: int | None
    order: Literal["delta", "rep"] | None
    rank: int | None
    scale: float
    sides: int | None
    sweeps: int
    tolerance: float | None
    top_k: int | None
    uniform: bool
    vectors: int | None
