"""Make a fleet of any size that has the spectra and the shares of a trained one, in seconds a thousand.

An adapter's update is sum_j s_j u_j v_j^T in every module. The values s are those of a module of the trained fleet,
drawn at random. Each u_j and v_j is made of three unit parts: one that is the same in all adapters, one within a
subspace of 16 directions that they share, and one of its own; the weights of the parts are such that the mean and the
shared directions hold the shares of |dW|^2 that they hold of adapters of the trained fleet which neither was made of.
The same seed gives the same adapters, and a larger fleet begins with the smaller one.

    python -m benchmarks.fleet.synthetic --out DIR --count N [--like FLEET [--write]] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from benchmarks.fleet.entries import CONFIG, by_kind, load
from benchmarks.fleet.profiles import PROFILE, SHARED, Profile, measured

Numbers = NDArray[np.float64]

LAYERS = 2
SHAPES = {
    "self_attn.q_proj": (64, 64),
    "self_attn.v_proj": (64, 64),
    "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
}
"""Outputs and inputs."""
RANK = 4
BASE = "synthetic-base"


@dataclass(frozen=True, eq=False)
class Side:
    """What all adapters have in common on one side of a module: (width, rank) and (width, shared), orthonormal."""

    mean: Numbers
    shared: Numbers


def sides(seed: int) -> dict[str, tuple[Side, Side]]:
    """Outputs' and inputs' of every module."""
    generator = np.random.default_rng(seed)
    found = {}
    for layer in range(LAYERS):
        for name, shape in SHAPES.items():
            out, inputs = (_side(generator, width) for width in shape)
            found[f"base_model.model.model.layers.{layer}.{name}"] = out, inputs
    return found


def _side(generator: np.random.Generator, width: int) -> Side:
    columns = np.linalg.qr(generator.standard_normal((width, RANK + SHARED)))[0]
    return Side(columns[:, :RANK], columns[:, RANK:])


def adapter(
    number: int, profile: Profile, common: Mapping[str, tuple[Side, Side]], seed: int
) -> dict[str, NDArray[np.float32]]:
    """The tensors of one adapter, as PEFT calls them: lora_A (rank, in) and lora_B (out, rank)."""
    # The first of a seed's streams are the sides'.
    generator = np.random.default_rng([seed, 1, number])
    tensors = {}
    for name, (out, inputs) in common.items():
        values = np.sqrt(profile.spectra[generator.integers(len(profile.spectra))])
        turn = np.linalg.qr(generator.standard_normal((RANK, RANK)))[0]
        U, V = (_directions(generator, side, profile) for side in (out, inputs))
        tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(turn.T @ (V * values).T, dtype=np.float32)
        tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray((U * values) @ turn, dtype=np.float32)
    return tensors


def _directions(generator: np.random.Generator, side: Side, profile: Profile) -> Numbers:
    """(width, rank) orthonormal columns, each a mixture of the mean's, of shared ones and of its own."""
    common, shared, own = weights(profile)
    within = side.shared @ _units(generator.standard_normal((SHARED, RANK)))
    private = _units(generator.standard_normal((len(side.mean), RANK)))
    mixed = common * side.mean + shared * within + own * private
    Q, R = np.linalg.qr(mixed)
    found: Numbers = Q * np.sign(np.diag(R))
    return found


def weights(profile: Profile) -> tuple[float, float, float]:
    """Lengths of the three parts of a direction: a product of two sides has the mean's share in it four times over."""
    common = profile.mean**0.5
    both = max(profile.mean + profile.shared, 0.0) ** 0.5
    return common**0.5, (both - common) ** 0.5, (1 - both) ** 0.5


def _units(columns: Numbers) -> Numbers:
    found: Numbers = columns / np.linalg.norm(columns, axis=0)
    return found


def write(folder: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """A PEFT folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(_config(tensors)))


def _config(tensors: Iterable[str]) -> dict[str, Any]:
    targets = sorted({name.split(".")[-3] for name in tensors})
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": BASE,
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Make a fleet, and print what it is like."""
    options = _parser().parse_args(arguments)
    profile = Profile.read(PROFILE) if options.like is None else measured(by_kind(load(options.like)), RANK)
    if options.write:
        PROFILE.write_text(json.dumps(asdict(profile)) + "\n", encoding="utf-8")
    print(f"mean {100 * profile.mean:.1f} %, {SHARED} shared directions {100 * profile.shared:.1f} %")
    common = sides(options.seed)
    for number in range(options.count):
        write(options.out / f"{number:05}", adapter(number, profile, common, options.seed))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the fleet's folder")
    parser.add_argument("--count", type=int, required=True, help="how many adapters")
    parser.add_argument("--like", type=Path, help="a trained fleet to measure (default: what was measured before)")
    parser.add_argument("--write", action="store_true", help="keep what is measured as the default")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
