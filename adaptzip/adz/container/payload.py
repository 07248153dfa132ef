"""The coded bytes behind the head, hashed in pieces so that each is checked when it is read (section 1.2)."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import cast, overload

from adaptzip.core.compressed import Buffer, ExtraEntry, PackedExtras
from adaptzip.errors import FormatError

PIECE = 2**17
"""Bytes that are hashed together."""
HASH = 16
"""Bytes of a hash: the first of a SHA-256."""
_KEPT = 8
"""How many pieces are remembered, for blocks that share one."""
_AGAIN = "fetch it again"


def sha(*parts: Buffer) -> bytes:
    """The first 16 bytes of the SHA-256 of the parts in a row."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.digest()[:HASH]


def piece_hashes(parts: Iterable[Buffer], size: int) -> bytes:
    """The hashes of a payload's pieces in a row; none where it is one piece, which the file's own hash covers."""
    if size <= PIECE:
        return b""
    found, piece, room = bytearray(), hashlib.sha256(), PIECE
    for part in parts:
        view = memoryview(part)
        while len(view):
            piece.update(view[:room])
            room, view = max(0, room - len(view)), view[room:]
            if not room:
                found += piece.digest()[:HASH]
                piece, room = hashlib.sha256(), PIECE
    return bytes(found + piece.digest()[:HASH]) if room < PIECE else bytes(found)


def pieces_of(size: int) -> int:
    """How many pieces have hashes in a payload, given its size and theirs together.

    Raises:
        FormatError: if there is no such payload.
    """
    if size <= PIECE:
        return 0
    count = -(-size // (PIECE + HASH))
    if not (count - 1) * PIECE < size - count * HASH or count < 2:
        raise FormatError(f"{size} bytes behind the head are no payload with the hashes of its pieces")
    return count


class Payload:
    """A payload of which every piece is checked before it is given out; it remembers the last ones that were read.

    Args:
        mapped: the whole file, or its content.
        first: where the payload begins in it.
        hashes: of the pieces; b"" for a payload of one piece that was checked already.
    """

    def __init__(self, mapped: mmap.mmap | memoryview | bytes, first: int, hashes: bytes) -> None:
        self._mapped, self._first, self._hashes = mapped, first, hashes
        self._file_size = len(mapped)
        self._pieces: dict[int, bytes] = {}

    def __len__(self) -> int:
        return self._file_size - self._first

    def read(self, first: int, end: int) -> memoryview:
        """Some of its bytes.

        Raises:
            FormatError: if a byte of their pieces was changed, or the file was cut.
        """
        numbers = range(first // PIECE, -(-end // PIECE)) if end > first else range(0)
        places = [(max(first - number * PIECE, 0), end - number * PIECE) for number in numbers]
        found = [memoryview(self._piece(n))[start:stop] for n, (start, stop) in zip(numbers, places, strict=True)]
        return found[0] if len(found) == 1 else memoryview(b"".join(found))

    def check(self) -> None:
        """Read all of it.

        Raises:
            FormatError: as `read`.
        """
        for number in range(-(-len(self) // PIECE)):
            self._piece(number)

    def _piece(self, number: int) -> bytes:
        found = self._pieces.get(number)
        if found is None:
            found = self._read(number)
            # Threads may read one piece twice, and forget one that another was about to use; neither does harm.
            if len(self._pieces) >= _KEPT:
                self._pieces.clear()
            self._pieces[number] = found
        return found

    def _read(self, number: int) -> bytes:
        # To touch a mapped page that is no longer in the file would end the process.
        if isinstance(self._mapped, mmap.mmap) and self._mapped.size() != self._file_size:
            raise FormatError("the file was cut or grew after it was opened", hint=_AGAIN)
        place = self._first + number * PIECE
        found = bytes(self._mapped[place : min(place + PIECE, self._file_size)])
        if self._hashes and sha(found) != self._hashes[number * HASH : (number + 1) * HASH]:
            raise FormatError("the file is damaged: its hash does not match", hint=_AGAIN)
        return found


class Blocks(Sequence[memoryview]):
    """The modules' blocks in a payload, each read and checked when it is asked for.

    Args:
        first: where the first block begins.
        lengths: of the blocks, which are known without reading any.
    """

    def __init__(self, payload: Payload, first: int, lengths: Sequence[int]) -> None:
        self._payload, self.lengths = payload, lengths
        self._ends = list(accumulate(lengths, initial=first))[1:]

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, place: int) -> memoryview: ...
    @overload
    def __getitem__(self, place: slice) -> list[memoryview]: ...
    def __getitem__(self, place: int | slice) -> memoryview | list[memoryview]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        return self._payload.read(self._ends[place] - self.lengths[place], self._ends[place])


class OpenedExtras(PackedExtras):
    """Packed extras at the end of a payload, which are read and checked when they are asked for.

    Args:
        first: where they begin.
    """

    def __init__(self, entries: tuple[ExtraEntry, ...], payload: Payload, first: int) -> None:
        object.__setattr__(self, "entries", entries)
        object.__setattr__(self, "_place", (payload, first))

    @property
    def payload(self) -> memoryview:
        """The coded planes.

        Raises:
            FormatError: as `Payload.read`.
        """
        payload, first = self.__dict__["_place"]
        return cast("Payload", payload).read(first, len(payload))
