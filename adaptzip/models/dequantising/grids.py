"""How scales lie over a matrix: one for all of it, for each row, for groups of a row, or for blocks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from adaptzip.models.dequantising.source import Source


@dataclass(frozen=True)
class Grid:
    """One scale for each `height` rows and `width` columns of a matrix of `shape`; the last ones may have fewer."""

    shape: tuple[int, int]
    height: int
    width: int

    @property
    def counts(self) -> tuple[int, int]:
        """How many scales there are, down and across."""
        return -(-self.shape[0] // self.height), -(-self.shape[1] // self.width)

    @property
    def goes_by_rows(self) -> bool:
        """Whether each row has scales of its own."""
        return self.height == 1

    def read(self, source: Source, name: str, first: int, last: int) -> Tensor:
        """The scales of some rows as stored, (scales down, scales across)."""
        down, across = self.counts
        begin, end = first // self.height, -(-last // self.height)
        if len(source.stored(name).shape) == 2:
            return source.part(name, (begin, end))
        return source.whole(name).reshape(down, across)[begin:end]

    def check(self, source: Source, name: str) -> None:
        """Check that a stored tensor has as many scales; vectors and single numbers count as they lie.

        Raises:
            RefusedError: if it has not.
        """
        shape, (down, across) = tuple(source.stored(name).shape), self.counts
        flat = {()} if down == across == 1 else set()
        vector = {(down * across,)} if 1 in (down, across) else set()
        if shape not in {(down, across)} | flat | vector:
            raise source.refused(f"{name} is {list(shape)}, expected {[down, across]} for a weight {list(self.shape)}")

    def spread(self, scales: Tensor, first: int, last: int) -> Tensor:
        """For each number of some rows its scale, or one for all numbers that share it along a row.

        Args:
            scales: as `read` gives them.
            first, last: the rows.
        """
        if self.height < self.shape[0] and self.height > 1:
            start = first - first // self.height * self.height
            scales = scales.repeat_interleave(self.height, 0)[start : start + last - first]
        if self.width < self.shape[1]:
            scales = scales.repeat_interleave(self.width, 1)[:, : self.shape[1]]
        return scales

    def largest(self, weight: Tensor) -> Tensor:
        """The largest magnitude under each scale, (scales down, scales across), of some rows from a scale's first."""
        rows, across = weight.shape[0], self.counts[1]
        height = min(self.height, rows)
        down = -(-rows // height)
        padded = functional.pad(weight.abs(), (0, across * self.width - weight.shape[1], 0, down * height - rows))
        return padded.reshape(down, height, across, self.width).amax(dim=(1, 3))


def over_all(shape: tuple[int, int]) -> Grid:
    """One scale for the whole matrix."""
    return Grid(shape, max(1, shape[0]), max(1, shape[1]))


def by_row(shape: tuple[int, int]) -> Grid:
    """One scale for each row."""
    return Grid(shape, 1, max(1, shape[1]))
