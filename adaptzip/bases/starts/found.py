"""What finding and recording say of a start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from adaptzip.bases.starts.generators import Place
from adaptzip.core.basis import Start
from adaptzip.core.showing import Shown
from adaptzip.core.words import count, number

POPULAR = (42, 0, 3407, 1337, 1234, 123, 1, 2, 3, 7, 10, 100, 2021, 2022, 2023, 2024, 2025, 4053586177)
"""Seeds that scripts set, the most popular first; the last is what torch seeds a new generator object with."""


@dataclass(frozen=True, repr=False)
class FoundStart(Shown):
    """The random numbers that an adapter's A began with.

    Attributes:
        generator: one of `generators.GENERATORS`.
        seed: 0 to 2^64 - 1.
        places: of the modules that were found in the generator's stream, by name.
        correlations: of each one's A with its first value, 0 to 1.

    Example:
        >>> from adaptzip.bases.starts.generators import Place
        >>> start = adaptzip.FoundStart("uniform", 42, {"q_proj": Place(4096, 8, 64)}, {"q_proj": 0.97})
        >>> start.correlation, start.places["q_proj"].offset
        (0.97, 4096)
    """

    generator: str
    seed: int
    places: Mapping[str, Place]
    correlations: Mapping[str, float]

    def _told(self) -> Iterator[str]:
        yield f"seed {self.seed}"
        yield f"{self.generator} numbers"
        yield count(len(self.places), "module")
        yield f"correlation {number(self.correlation)}"

    @property
    def correlation(self) -> float:
        """The mean over modules."""
        return sum(self.correlations.values()) / max(1, len(self.correlations))

    def start(self, names: Sequence[str]) -> Start:
        """What a file says of it, for these modules in this order."""
        return Start(self.generator, self.seed, tuple(self.places[name].offset for name in names), self.correlation)


@dataclass(frozen=True, eq=False, repr=False)
class KeptStart(Shown):
    """The first A of an adapter themselves, where no generator makes them again.

    Attributes:
        A: by module, (rank, in), float16, or float32 where that would lose rows.

    Example:
        >>> adaptzip.KeptStart({"q_proj": torch.ones(2, 8)}).A["q_proj"].shape
        torch.Size([2, 8])
    """

    A: Mapping[str, Tensor]

    def _told(self) -> Iterator[str]:
        yield count(len(self.A), "module")
