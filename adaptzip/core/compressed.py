"""A compressed adapter: what a `.adz` file holds, in memory or still on disk."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adaptzip.core.basis import BasisReference
from adaptzip.core.late import late
from adaptzip.core.meta import Meta
from adaptzip.core.showing import Shown
from adaptzip.core.training_report import TrainingReport
from adaptzip.core.words import count, number, ratio, size
from adaptzip.errors import AdaptzipError, UsageError

Buffer = bytes | memoryview

PARTS = "source:"
"""What names of extras begin with that a lossless file keeps as the `parts` of its `meta`."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor that a method stores for one module: the single truth for counting, coding and validating.

    Attributes:
        role: the tensor's name within the method, such as "U".
        rows: number of rows; every row is coded under one probability model of its own.
        width: numbers in a row.
        kind: "real" numbers are quantised with the adapter's one step. "index" numbers are whole, in 0..bound-1.
            "simplex" rows are all but the last of some weights that add up to 1, none negative; they are stored as
            whole multiples of 1 / bound.
        bound: see `kind`; 0 for real numbers. At most 2^20.
        directions: only the directions of the rows matter. Such a tensor is reconstructed in units of the step, as
            whole numbers, whose sums of squares are exact on every machine.

    Example:
        >>> adaptzip.TensorSpec("A.indices", rows=6, width=2, kind="index", bound=20).numbers
        12
    """

    role: str
    rows: int
    width: int
    kind: Literal["real", "index", "simplex"] = "real"
    directions: bool = False
    bound: int = 0

    @property
    def numbers(self) -> int:
        """In the whole tensor."""
        return self.rows * self.width

    def check(self, tensor: object) -> None:
        """Refuse to code a tensor that could not be decoded by this.

        Raises:
            UsageError: if it is none, or is not (rows, width).
        """
        found = getattr(tensor, "shape", None)
        if found != (self.rows, self.width):
            told = type(tensor).__name__ if found is None else list(found)
            raise UsageError(
                f"the tensor {self.role} to code is {told}, expected {[self.rows, self.width]} by the method's layout",
                hint="mend the method: its target and its layout tell of different tensors",
            )


@dataclass(frozen=True)
class Site:
    """A module that an adapter changes.

    Attributes:
        out, width: shape of its update, (out, in).
        layout, kernel: how the base weight lies (`adapter.Layout`), and the sizes of a convolution's kernel.
        frame: directions of the module's frame, for methods that code vectors in one; 0 without.
        number: the module's place among the sorted names of its file, where it is coded or decoded; 0 elsewhere.

    Example:
        >>> adaptzip.Site(out=6, width=8)
        Site(out=6, width=8, layout='linear', kernel=())
    """

    out: int
    width: int
    layout: str = "linear"
    kernel: tuple[int, ...] = ()
    frame: int = field(default=0, repr=False)
    number: int = field(default=0, repr=False)


@dataclass(frozen=True)
class Provenance:
    """Where a file came from and what was measured when it was made. No clock, path or command line.

    Attributes:
        made_by: program and version.
        source_bytes: size of the source checkpoint's tensor file, or of all where there are several.
        source_hash: `digest` of their content, or None where the adapter did not come from a file.
        relative_error: |dW - dW'| / |dW| over all modules together (Frobenius); 0 if lossless.
        parameters: numbers stored for the modules, shared tensors and an embedded basis included, extras not.
        seed: what the fit was seeded with.
        distilled: what training said, for a file that was distilled.
    """

    made_by: str
    source_bytes: int
    source_hash: str | None
    relative_error: float
    parameters: int
    seed: int = 0
    distilled: TrainingReport | None = None


@dataclass(frozen=True)
class ExtraEntry:
    """One packed extra: its role ("extra", or "magnitude" / "bias" of the module `name`), dtype and shape."""

    role: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    stored: str


@dataclass(frozen=True)
class PackedExtras:
    """All extras in one block: their table and the coded planes (see formats/adz-1.md, "extras")."""

    entries: tuple[ExtraEntry, ...] = ()
    payload: Buffer = b""


@dataclass(frozen=True, eq=False, repr=False)
class Compressed(Shown):
    """A compressed adapter. It can be pickled, as the bytes of its file.

    Attributes:
        method: name of the method, such as "svd", and `method_version`, the version of its page in formats/.
        config: the method's own configuration.
        sites: shape and layout by module name, sorted by name.
        max_rank: largest rank that a module may have.
        chunks: one coded block per module in the order of `sites`; an empty block is a zero update. Nothing where a
            file was opened whose modules are grouped.
        grouped: all modules in one bit string, where they are written so, in place of `chunks`; else b"".
        shared: the coded block of what all modules share; b"" where the method shares nothing.
        gains: gain index (`adaptzip.core.gains`) of each module in the order of `sites`; empty where all are 0.
        basis: where the frozen basis is found, for methods that need one.
        basis_sizes: directions of each module in the order of `sites`, where the basis is embedded or a frame (0 for a
            module without); else empty.
        basis_payload: of an embedded basis U (out, k) and V (in, k) of each module in turn, packed as float16.
        step: the quantiser step that all real tensors share.
        extras: every tensor that is not a factor.
        meta: where the adapter came from; its `header` and `config_text` are kept by a lossless file alone, and its
            `dtype` is None, as nothing is decoded yet.
        dtype: dtype of the source's factors by safetensors' name, "F32", "F16" or "BF16": the narrowest that holds
            them all, and at most F32. What is decoded is float32 whatever it says.
        provenance: see `Provenance`.
        renamed: whether a lossless file calls the base model otherwise than its source did.
        path: the file that was opened, beside which what it refers to may lie; None for what was made in memory.

    Example:
        >>> small = adaptzip.compress("my-adapter", budget="20%")
        >>> small.method, small.lossless, len(small.chunks) == len(small.modules)
        ('svd', False, True)
        >>> small.save("small.adz") == small.bytes == len(small.to_bytes())
        True
        >>> small.sites["bert.encoder.layer.0.attention.self.query"]
        Site(out=16, width=16, layout='linear', kernel=())
    """

    method: str
    method_version: int
    config: Mapping[str, Any]
    sites: Mapping[str, Site]
    max_rank: int
    chunks: Sequence[Buffer]
    step: float
    provenance: Provenance
    extras: PackedExtras = field(default_factory=PackedExtras)
    meta: Meta = field(default_factory=Meta)
    dtype: str = "F32"
    shared: Buffer = b""
    grouped: Buffer = b""
    gains: Sequence[int] = ()
    basis: BasisReference | None = None
    basis_sizes: Sequence[int] = ()
    basis_payload: Buffer = b""
    renamed: bool = False
    path: Path | None = field(default=None, compare=False)

    @property
    def modules(self) -> tuple[str, ...]:
        """Module names, sorted."""
        return tuple(self.sites)

    @property
    def lossless(self) -> bool:
        """Whether it holds the source's tensors bit for bit."""
        return bool(self.config.get("lossless", False))

    @property
    def lengths(self) -> Sequence[int]:
        """Bytes of each module's block; of a file that was opened, without reading any."""
        known: Sequence[int] | None = getattr(self.chunks, "lengths", None)
        return [len(chunk) for chunk in self.chunks] if known is None else known

    @property
    def bytes(self) -> int:
        """Size of the whole file, everything counted.

        Raises:
            FormatError, RefusedError, UsageError: as `save`.
        """
        found: int = late("adaptzip.adz.container.writer:size")(self)
        return found

    def to_bytes(self) -> builtins.bytes:
        """The `.adz` file's content, which `adaptzip.open` reads.

        Raises:
            FormatError, RefusedError, UsageError: as `save`.
        """
        found: builtins.bytes = late("adaptzip.adz.container.writer:packed")(self)
        return found

    def save(self, path: str | Path, *, force: bool = False) -> int:
        """Write a `.adz` file, all or nothing; returns its size in bytes.

        Args:
            path: the file to write.
            force: replace a file that is there.

        Raises:
            OutputError: if `path` exists without `force`, or cannot be written.
            FormatError: if no reader would take the file, as its modules or extras have names that mean something else.
            RefusedError: if its head would be longer than readers take.
            UsageError: if a hash in it is none.
        """
        found: int = late("adaptzip.adz.container.writer:write")(self, path, force=force)
        return found

    def __reduce__(self) -> tuple[Any, tuple[builtins.bytes]]:
        return late("adaptzip.adz.container.reader:open_again"), (self.to_bytes(),)

    def _told(self) -> Iterable[str]:
        yield self.method
        try:
            whole = self.bytes
        except AdaptzipError:
            yield "no file"
        else:
            yield size(whole)
            yield ratio(self.provenance.source_bytes, whole) if self.provenance.source_bytes else ""
        yield "lossless" if self.lossless else f"error {number(self.provenance.relative_error)}"
        yield count(len(self.sites), "module")

    @property
    def payload_bytes(self) -> int:
        """Coded bytes of all modules and what they share, without header, index, basis and extras."""
        return len(self.shared) + self.module_bytes

    @property
    def module_bytes(self) -> int:
        """Coded bytes of all modules."""
        return len(self.grouped) or sum(self.lengths)
