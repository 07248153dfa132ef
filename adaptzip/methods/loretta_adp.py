"""`loretta-adp`: bottleneck adapters made of tensor trains (Yang et al. 2024), which only training can make.

Behind a layer's output x of width d stands x + up(act(down(x))), where `down` (b, d) and `up` (d, b) are chains of
cores over the modes of b and d (LoRETTA_adp). That is not linear in x, so that no weight can hold it. It starts as the
identity: the last core of `up` is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from adaptzip.core.compressed import Site, TensorSpec
from adaptzip.core.function_method import Function, FunctionMethod
from adaptzip.errors import RefusedError, UsageError
from adaptzip.methods._trains import Shape, chain_shape, contract
from adaptzip.methods._trains.chains import largest_rank

MOST_BOTTLENECK = 2**20
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "tanh": torch.tanh,
}
_BIASES = ("none", "down", "both")
_OUTPUTS = (
    *("output.dense", "attention.dense", "self_attention.dense", "self_attn.dense", "dense_4h_to_h"),
    *("out_lin", "lin2", "ffn_output", "c_proj", "o_proj", "down_proj", "out_proj", "fc2", "fc_out"),
    *("SelfAttention.o", "EncDecAttention.o", "wo", "Wo"),
)
"""How the layers are called that close a block's attention or its feed-forward part, in the models of transformers."""


@dataclass(frozen=True)
class Config:
    """Options of `loretta-adp`.

    Attributes:
        bottleneck: b, the numbers between `down` and `up`.
        rank: largest TT rank of a bond; None leaves it to the budget.
        layers: ends of the names of the layers that get an adapter, with commas between them; None takes those that
            close a block's attention or its feed-forward part.
        activation: what stands between `down` and `up`.
        bias: which of the two have one: "none", "down" or "both".
    """

    bottleneck: int = 16
    rank: int | None = None
    layers: str | None = None
    activation: Literal["gelu", "relu", "tanh"] = "gelu"
    bias: Literal["none", "down", "both"] = "down"

    def __post_init__(self) -> None:
        for name, value, most in (("bottleneck", self.bottleneck, MOST_BOTTLENECK), ("rank", self.rank, None)):
            if name == "rank" and value is None:
                continue
            if type(value) is not int or value < 1 or most is not None and value > most:
                limit = "" if most is None else f" and at most {most}"
                raise UsageError(f"{name} is {value!r}, expected a whole number of at least 1{limit}")
        if self.activation not in _ACTIVATIONS:
            raise UsageError(f"activation is {self.activation!r}, expected {', '.join(_ACTIVATIONS)}")
        if self.bias not in _BIASES:
            raise UsageError(f"bias is {self.bias!r}, expected {', '.join(_BIASES)}")
        if self.layers is not None and not all(part.strip() for part in self.layers.split(",")):
            raise UsageError(f"layers is {self.layers!r}, expected ends of names such as o_proj,down_proj")


class LorettaAdp(FunctionMethod[Config]):
    """The method; see the module's description."""

    name = "loretta-adp"
    version = 1
    summary = "adapters of tensor trains behind layers; distilled alone, never merged"
    paper = "Yang, Zhou, Wong and Zhang 2024 (LoRETTA, arXiv:2402.11417)"
    config_type = Config
    roles = ("down", "down_bias", "up", "up_bias")

    def places(self, layers: Mapping[str, int], config: Config) -> dict[str, Site]:
        if config.layers is None:
            # Heads have such names too, but stand in no numbered block.
            named = {n for n in layers if _ends(n, _OUTPUTS) and any(part.isdigit() for part in n.split("."))}
        else:
            ends = tuple(part.strip() for part in config.layers.split(","))
            named = {n for n in layers if _ends(n, ends)}
        if not named:
            raise RefusedError(
                "the base model has no layer of the names that adapters are put behind",
                hint="name the ends of some, as in `options={'layers': 'o_proj,down_proj'}`",
            )
        return {name: Site(layers[name], layers[name]) for name in sorted(named)}

    def start(
        self, sites: Mapping[str, Site], ranks: Mapping[str, int], config: Config, seed: int
    ) -> dict[str, dict[str, Tensor]]:
        """Cores drawn so that the entries of `down`, and of `up` without its last core's zeros, vary by 1 / d."""
        generator = torch.Generator().manual_seed(seed)
        return {name: _drawn(sites[name], rank, config, generator) for name, rank in ranks.items()}

    def max_rank(self, site: Site, config: Config) -> int:
        """0 for what is not from outputs to outputs."""
        if site.out != site.width or site.layout != "linear":
            return 0
        return largest_rank(config.bottleneck, site.out, min(config.bottleneck, site.out))

    def factor_rank(self, site: Site, rank: int, config: Config) -> int:
        return config.bottleneck

    def layout(self, site: Site, rank: int, config: Config) -> tuple[TensorSpec, ...]:
        """The cores of each chain as `loretta` orders them, and what biases there are behind each."""
        down, up = _shapes(site, rank, config)
        specs = list(_cores("down", down))
        if config.bias != "none":
            specs.append(TensorSpec("down_bias", 1, config.bottleneck))
        specs += _cores("up", up)
        if config.bias == "both":
            specs.append(TensorSpec("up_bias", 1, site.out))
        return tuple(specs)

    def reconstruct(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> tuple[Tensor, Tensor]:
        """`down` (b, d) and `up` (d, b), multiplied out in float64 and rounded once."""
        return _matrix("down", tensors, config.bottleneck), _matrix("up", tensors, site.out)

    def apply(self, tensors: Mapping[str, Tensor], site: Site, config: Config) -> Function:
        down, up = self.reconstruct(tensors, site, config)
        biases = [tensors[role].reshape(-1) if role in tensors else None for role in ("down_bias", "up_bias")]
        activation = _ACTIVATIONS[config.activation]

        def function(x: Tensor) -> Tensor:
            A, B = down.to(x), up.to(x)
            a, b = (None if bias is None else bias.to(x) for bias in biases)
            return x + functional.linear(activation(functional.linear(x, A, a)), B, b)

        return function


def _ends(name: str, ends: tuple[str, ...]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


def _shapes(site: Site, rank: int, config: Config) -> tuple[Shape, Shape]:
    """The chains of `down` and `up`."""
    b, d = config.bottleneck, site.out
    middle = min(b, d)
    return chain_shape(b, d, rank, middle), chain_shape(d, b, rank, middle)


def _cores(role: str, shape: Shape) -> tuple[TensorSpec, ...]:
    sizes = [*shape.out.shapes, *shape.width.shapes]
    return tuple(TensorSpec(f"{role}.{i}", right, left * mode) for i, (left, mode, right) in enumerate(sizes))


def _drawn(site: Site, rank: int, config: Config, generator: torch.Generator) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for role, shape in zip(("down", "up"), _shapes(site, rank, config), strict=True):
        specs = _cores(role, shape)
        # An entry is a sum over the bonds between cores of products of one number from each.
        paths = prod((*shape.out.ranks[:-1], *shape.width.ranks))
        deviation = (1 / (site.out * paths)) ** (0.5 / len(specs))
        found |= {s.role: deviation * torch.randn(s.rows, s.width, generator=generator) for s in specs}
    found[specs[-1].role].zero_()
    layout = METHOD.layout(site, rank, config)
    return {spec.role: found.get(spec.role, torch.zeros(spec.rows, spec.width)) for spec in layout}


def _matrix(role: str, tensors: Mapping[str, Tensor], out: int) -> Tensor:
    """A chain's matrix (out, in); the side of the outputs ends where its modes multiply to `out`."""
    count = sum(name.startswith(f"{role}.") for name in tensors)
    cores: list[Tensor] = []
    split, left, product = 0, 1, 1
    for i in range(count):
        rows = tensors[f"{role}.{i}"]
        right, mode = len(rows), rows.shape[1] // left
        cores.append(rows.double().T.reshape(1, left, mode, right))
        left, product = right, product * mode
        if not split and product == out:
            split, left = i + 1, 1
    return (contract(cores[:split])[0] @ contract(cores[split:])[0].T).to(tensors[f"{role}.0"].dtype)


METHOD = LorettaAdp()
