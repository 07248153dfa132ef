"""A golden file in its parts, to put together again with one of them changed.

What is put together has right hashes and lengths unless those are what is changed, so that a reader gets as far as the
fault. Nothing of adaptzip is used here.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from formats.decoder import (
    DICTIONARY_FILE,
    PIECE,
    Broken,
    Reader,
    inflate,
    parse_file,
    parse_head,
    parse_modules,
    parse_report,
)

GOLDEN = Path(__file__).resolve().parent / "golden"


@dataclass(frozen=True)
class File:
    """A file taken apart.

    Attributes:
        metadata: parsed.
        numbers: bytes of each number of the head, by its name: step, error, parameters, max_rank, seed, size; of
            source_hash, basis_hash and report, b"" where the head has none.
        blocks: one for each module; () where they are grouped.
        packed: the packed extras.
        shared, basis: the shared block and an embedded basis; b"" where there is none.
        gains, sizes, offsets: these tables; b"" where the file has none.
        config: the configuration where it is kept as text, else b"".
        source_header: the source's header in a lossless file, else b"".
        grouped: the one bit string of all modules, in place of blocks.
    """

    metadata: Mapping[str, Any]
    numbers: Mapping[str, bytes]
    blocks: tuple[bytes, ...]
    packed: bytes = b""
    shared: bytes = b""
    basis: bytes = b""
    gains: bytes = b""
    sizes: bytes = b""
    offsets: bytes = b""
    config: bytes = b""
    source_header: bytes = b""
    grouped: bytes = b""

    @classmethod
    def open(cls, name: str) -> File:
        """A golden file."""
        data, payload = parse_file((GOLDEN / f"{name}.adz").read_bytes())
        head, reader = parse_head(data), Reader(data)
        flags = reader.whole()
        numbers: dict[str, bytes] = {}
        for key, (bit, read) in _NUMBERS.items():
            place = reader.place
            if bit is None or flags >> bit & 1:
                read(reader)
            numbers[key] = data[place : reader.place]
        sizes = [reader.whole() if flags >> bit & 1 else 0 for bit in (3, 4, 5, 6)]
        line, _, tables = inflate(data[reader.place :])[0].partition(b"\n")
        ends = list(accumulate([head.grouped] if head.grouped else head.lengths, initial=head.shared))
        blocks = tuple(payload[first:end] for first, end in pairwise(ends))
        count = len(head.sites)
        gains = tables[: count * (flags >> 2 & 1)]
        own = leb128(head.basis_sizes)
        behind = sum(sizes[1:3])
        config, header = (tables[len(tables) - sum(sizes[1 + i : 3]) :][: sizes[1 + i]] for i in range(2))
        return cls(
            metadata=json.loads(line),
            numbers=numbers,
            blocks=() if head.grouped else blocks,
            grouped=blocks[0] if head.grouped else b"",
            packed=payload[ends[-1] + head.basis :],
            shared=payload[: head.shared],
            basis=payload[ends[-1] : ends[-1] + head.basis],
            gains=gains,
            sizes=own,
            offsets=tables[len(gains) + len(own) : len(tables) - behind],
            config=config,
            source_header=header,
        )

    def with_metadata(self, **changes: Any) -> File:
        """With some metadata changed; a value of `...` leaves the key out."""
        merged = {**self.metadata, **changes}
        return replace(self, metadata={key: value for key, value in merged.items() if value is not ...})

    def with_numbers(self, **changes: bytes) -> File:
        """With some numbers of the head changed."""
        return replace(self, numbers={**self.numbers, **changes})

    def texts(self, text: str | bytes | None = None) -> bytes:
        """What is deflated. `text` replaces the metadata."""
        if text is None:
            text = json.dumps(self.metadata, separators=(",", ":"), ensure_ascii=False)
        line = text.encode() if isinstance(text, str) else text
        return line + b"\n" + self.gains + self.sizes + self.offsets + self.config + self.source_header

    def index(self) -> bytes:
        """The lengths of the blocks, each a whole number with its distance from what is expected of its shape."""
        if self.grouped:
            return b"\x80" + leb128([len(self.grouped)])
        return index(list(map(len, self.blocks)), self._shapes())

    def _shapes(self) -> list[tuple[int, int]]:
        try:
            return [(site.out, site.width) for site in parse_modules(list(self.metadata["modules"])).values()]
        except (Broken, KeyError, TypeError):
            return [(0, 0)] * len(self.blocks)

    def head(
        self,
        *,
        texts: bytes | None = None,
        deflated: bytes | None = None,
        index: bytes | None = None,
        flags: int | None = None,
    ) -> bytes:
        """The head.

        Args:
            texts: what is deflated.
            deflated: what stands in the place of the deflated texts.
            index: what stands in the place of the index.
            flags: which parts the head says that it has.
        """
        sized = {
            3: (self.sizes, self.basis),
            4: (self.config,) * 2,
            5: (self.source_header,) * 2,
            6: (self.shared,) * 2,
        }
        there = {bit: self.numbers[key] for key, (bit, _) in _NUMBERS.items() if bit is not None}
        there |= {2: self.gains, **{bit: own for bit, (own, _) in sized.items()}}
        if flags is None:
            flags = sum(1 << bit for bit, own in there.items() if own)
        parts = (
            leb128([flags]),
            *(self.numbers[key] for key in _NUMBERS),
            *(leb128([len(counted)]) for bit, (own, counted) in sized.items() if own),
            deflate(self.texts() if texts is None else texts) if deflated is None else deflated,
            self.index() if index is None else index,
        )
        return b"".join(parts)

    def payload(self) -> bytes:
        """What follows the head and the hashes of its pieces."""
        return self.shared + (self.grouped or b"".join(self.blocks)) + self.basis + self.packed

    def build(self, head: bytes | None = None, payload: bytes | None = None, **framed: Any) -> bytes:
        """The file; `framed` as `frame` takes it."""
        return frame(self.head() if head is None else head, self.payload() if payload is None else payload, **framed)


def frame(
    head: bytes,
    payload: bytes,
    *,
    version: int = 1,
    length: bytes | None = None,
    hashes: bytes | None = None,
    header: str | None = None,
) -> bytes:
    """A file with its hash.

    Args:
        length: what is told of the head's length.
        hashes: of the payload's pieces.
        header: the safetensors header, with SIZE in the place of the tensor's size.
    """
    if hashes is None:
        pieces = [payload[place : place + PIECE] for place in range(0, len(payload), PIECE)]
        hashes = b"".join(map(sha, pieces)) if len(pieces) > 1 else b""
    rest = (leb128([len(head)]) if length is None else length) + head + hashes
    text = USUAL if header is None else header
    start = text.replace("SIZE", str(17 + len(rest) + len(payload))).encode()
    start = len(start).to_bytes(8, "little") + start + bytes([version])
    found = sha(start + bytes(16) + rest + (b"" if hashes else payload))
    return start + found + rest + payload


USUAL = '{"adz":{"dtype":"U8","shape":[SIZE],"data_offsets":[0,SIZE]}}'
"""The safetensors header."""


def sha(data: bytes) -> bytes:
    """The first 16 bytes of the SHA-256."""
    return hashlib.sha256(data).digest()[:16]


def hashed(data: bytes) -> bytes:
    """A file of one piece with its hash put right."""
    start = 9 + int.from_bytes(data[:8], "little")
    return data[:start] + sha(data[:start] + bytes(16) + data[start + 16 :]) + data[start + 16 :]


def deflate(data: bytes) -> bytes:
    """Raw deflate with the format's dictionary."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=DICTIONARY_FILE.read_bytes())
    return packer.compress(data) + packer.flush()


def leb128(numbers: Iterable[int]) -> bytes:
    """Whole numbers in seven bits a byte."""
    found = bytearray()
    for number in numbers:
        while number > 127:
            found.append(number & 127 | 128)
            number >>= 7
        found.append(number)
    return bytes(found)


def single(number: float) -> bytes:
    """A float32."""
    return struct.pack("<f", number)


def index(lengths: list[int], shapes: list[tuple[int, int]]) -> bytes:
    """An index of order 5, with a bit for each module that says whether it has a block."""
    bits, last = "", 0
    expected: dict[tuple[int, int], int] = {}
    for length, shape in zip(lengths, shapes, strict=False):
        bits += "1" if length else "0"
        if length:
            difference = length - expected.get(shape, last)
            code = 2 * difference if difference >= 0 else -2 * difference - 1
            high = f"{(code >> 5) + 1:b}"
            bits += "0" * (len(high) - 1) + high + f"{code & 31:05b}"
            last = length
            expected[shape] = (expected[shape] + length + 1) >> 1 if shape in expected else length
    bits += "0" * (-len(bits) % 8)
    return (
        bytes([64 + 5]) + bytes(int(bits[place : place + 8], 2) for place in range(0, len(bits), 8)) if shapes else b""
    )


_NUMBERS: Mapping[str, tuple[int | None, Callable[[Reader], Any]]] = {
    "step": (None, lambda reader: reader.take(4)),
    "error": (None, Reader.decimal),
    "parameters": (None, Reader.whole),
    "max_rank": (None, Reader.whole),
    "seed": (None, Reader.whole),
    "size": (None, Reader.whole),
    "source_hash": (0, lambda reader: reader.take(16)),
    "basis_hash": (7, lambda reader: reader.take(16)),
    "report": (1, parse_report),
}
"""The head's first numbers in their order: the bit of the flags that says that one is there, and how it is read."""
