"""A second decoder of `.adz` version 1, written from adz-1.md for reading rather than for speed.

It shares no code with adaptzip, and needs Python, numpy and zstandard. Its sections are those of adz-1.md. It is the
judge of the format's text: the tests hold it against adaptzip bit for bit.

usage: python formats/decoder.py FILE
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import struct
import sys
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

try:
    from formats.decoder_starts import BrokenStart, frame, outputs, start_matrices
    from formats.decoder_starts import Module as StartModule
except ImportError:  # As a program, from its own folder.
    from decoder_starts import BrokenStart, frame, outputs, start_matrices  # type: ignore[import-not-found,no-redef]
    from decoder_starts import Module as StartModule  # type: ignore[no-redef]

_PACKAGE = Path(__file__).resolve().parent.parent / "adaptzip"
TABLES_FILE = _PACKAGE / "adz" / "coding" / "tables.bin"
DICTIONARY_FILE = _PACKAGE / "adz" / "container" / "dictionary.txt"
DEFAULTS_FILE = _PACKAGE / "adz" / "container" / "peft_defaults.json"

Floats = NDArray[np.float32]


class Broken(ValueError):
    """The file must be refused; the message says why."""


class Tensor(NamedTuple):
    """A stored tensor: dtype as safetensors names it, shape, and its words (a numpy number where numpy has it)."""

    dtype: str
    shape: tuple[int, ...]
    words: NDArray[Any]


class Module(NamedTuple):
    """The factors of one update, scaling * B @ A. Those of a lossless file are `Tensor`s, others float32 arrays.

    `stored` are the module's own tensors: multiples of the step, or whole numbers. A lossless file and a zero update
    have none, nor has a module of a method whose tensors are all shared.
    """

    A: Any
    B: Any
    scaling: float
    stored: tuple[NDArray[np.int64], ...] = ()


class Site(NamedTuple):
    """A module's (out, in), how its base weight lies, a convolution's kernel, the directions of its frame, and its
    number: its place in the order of the names."""

    out: int
    width: int
    layout: str
    kernel: tuple[int, ...]
    frame: int = 0
    number: int = 0


Basis = Mapping[str, tuple[Floats, ...]]
"""U (out, k) and V (in, k) by module; a bank's vectors (h, b), and nothing, under `BANK`."""
BANK = ""


class Decoded(NamedTuple):
    """Everything in a file; extras by (role, name)."""

    metadata: dict[str, Any]
    config: dict[str, Any]
    sites: dict[str, Site]
    modules: dict[str, Module]
    extras: dict[tuple[str, str], Tensor]
    source_header: bytes
    shared: tuple[NDArray[np.int64], ...] = ()


def decode(data: bytes, basis: Basis | None = None) -> Decoded:
    """Decode a whole file.

    Args:
        basis: that of the base weights or of the artefact, for a file that names one.

    Raises:
        Broken: if adz-1.md says that it must be refused.
    """
    head_bytes, payload = parse_file(data)
    head = parse_head(head_bytes)
    metadata, sites = head.metadata, head.sites
    sizes = (head.shared, head.grouped or sum(head.lengths), head.basis)
    need(sum(sizes) <= len(payload), "the blocks are longer than the payload")
    shared, packed = payload[: head.shared], payload[sum(sizes) :]
    need(bool(head.extras) == (len(packed) > 0), "extras and their table do not belong together")
    check_belongings(head)
    plan = plan_of(head, shared, payload[sum(sizes[:2]) : sum(sizes)], sum(sizes[:2]), basis)
    if plan.method.frames and head.basis_sizes:
        sites = {name: site._replace(frame=size) for (name, site), size in zip_sizes(head)}
    sites = {name: site._replace(number=number) for number, (name, site) in enumerate(sites.items())}
    modules, position = {}, head.shared
    gains = head.gains or (0,) * len(sites)
    if head.grouped:
        modules = decode_modules(payload[position : position + head.grouped], sites, gains, plan)
    for (name, site), length, gain in () if head.grouped else zip(sites.items(), head.lengths, gains, strict=True):
        modules[name] = decode_module(payload[position : position + length], name, site, gain, plan)
        position += length
    unpacked = unpack(head.extras, packed)
    extras = {(e.role, e.name): tensor for e, tensor in zip(head.extras, unpacked, strict=True)}
    for role, name in extras:
        need(role in ("extra", "magnitude", "bias"), f"unknown role {role!r}")
        if role != "extra":
            need(
                name in sites and extras[role, name].shape in shapes(role, sites[name]),
                f"{role} of {name!r} fits no module",
            )
            need_finite(extras[role, name])
    return Decoded(metadata, head.config, sites, modules, extras, head.source_header, plan.shared)


def zip_sizes(head: Head) -> Iterator[tuple[tuple[str, Site], int]]:
    """Names and sites with their sizes."""
    return zip(head.sites.items(), head.basis_sizes, strict=True)


def shapes(role: str, site: Site) -> tuple[tuple[int, ...], ...]:
    """The shapes of a module's magnitude or bias; a magnitude may be one for each input."""
    by_input = [(1, site.width // math.prod(site.kernel))] if role == "magnitude" else []
    return ((site.out,), *by_input)


def need(condition: bool, message: str) -> None:
    """Refuse the file unless `condition` holds."""
    if not condition:
        raise Broken(message)


# 1. The file ---------------------------------------------------------------------------------------------------------

MAX_FRAME = 2**16
MAX_HEAD = 2**24
PIECE = 2**17


def parse_file(data: bytes) -> tuple[bytes, bytes]:
    """The head and the payload, both compared with their hashes."""
    start = parse_frame(data)
    need(len(data) > start and data[start] == 1, "another version of the format")
    begin = Reader(data[start + 1 : start + 26])
    found, length = begin.take(16), begin.whole(MAX_HEAD)
    first = start + 1 + begin.place
    need(length <= len(data) - first, "the head is longer than the file")
    size = len(data) - first - length
    count = 0 if size <= PIECE else -(-size // (PIECE + 16))
    end = first + length + 16 * count
    payload = data[end:]
    need(count == (0 if size <= PIECE else -(-len(payload) // PIECE)) != 1, "there is not one hash for each piece")
    blank = data[: start + 1] + bytes(16) + data[start + 17 : end]
    need(sha(blank if count else blank + payload) == found, "the hash does not match")
    for number in range(count):
        piece = payload[number * PIECE : (number + 1) * PIECE]
        expected = data[first + length + 16 * number :][:16]
        need(sha(piece) == expected, "the hash of a piece does not match")
    return data[first : first + length], payload


def parse_frame(data: bytes) -> int:
    """Section 1.1: the bytes of the safetensors header, its length included."""
    length = int.from_bytes(data[:8], "little")
    need(len(data) >= 8 and 0 < length <= min(MAX_FRAME, len(data) - 8), "no header that fits the file")
    need(data[8:9] == b"{", "the header is not a JSON object")
    header = strict_json(data[8 : 8 + length])
    need(header.keys() | {"__metadata__"} == {"adz", "__metadata__"}, "not one tensor 'adz'")
    entry = header["adz"]
    need(isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}, "the tensor is malformed")
    need(entry["dtype"] == "U8" and whole_numbers(entry["shape"], 1), "the tensor is not 1-D U8")
    need(whole_numbers(entry["data_offsets"], 2), "the tensor has malformed offsets")
    need(entry["data_offsets"] == [0, entry["shape"][0]], "the tensor has wrong offsets")
    need(8 + length + entry["shape"][0] == len(data), "the file is not as long as its header says")
    return 8 + length


def sha(data: bytes) -> bytes:
    """Section 1.2: the first 16 bytes of the SHA-256."""
    return hashlib.sha256(data).digest()[:16]


def strict_json(text: bytes | str) -> Any:
    """JSON in UTF-8 without repeated keys, NaN, infinities and lone surrogates."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        need(len(dict(pairs)) == len(pairs), "a JSON key is repeated")
        return dict(pairs)

    def constant(name: str) -> None:
        raise Broken(f"{name} is not JSON")

    try:
        plain = text.decode() if isinstance(text, bytes) else text
        value = json.loads(plain, object_pairs_hook=unique, parse_constant=constant)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Broken(f"not strict JSON: {error}") from error
    return value


def whole_numbers(value: Any, count: int) -> bool:
    """Whether `value` is a list of `count` whole numbers of at least 0."""
    return isinstance(value, list) and len(value) == count and all(type(n) is int and n >= 0 for n in value)


class Reader:
    """Section 1.3: numbers out of bytes, one after another."""

    def __init__(self, data: bytes, place: int = 0) -> None:
        self.data, self.place = data, place

    def take(self, count: int) -> bytes:
        """The next bytes."""
        need(self.place + count <= len(self.data), "data is truncated")
        self.place += count
        return self.data[self.place - count : self.place]

    def whole(self, most: int = 2**63 - 1) -> int:
        """A LEB128 number in its shortest form."""
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
            need(shift < 63, "a number is too large")
        need(byte > 0 or shift == 0, "a number is longer than it need be")
        need(value <= most, "a number is out of range")
        return value

    def signed(self) -> int:
        """A number in zigzag."""
        return unzigzag(self.whole())

    def decimal(self) -> float:
        """A decimal number."""
        return self.decimal_of(self.whole())

    def figure(self) -> float | None:
        """A decimal number or nothing."""
        code = self.whole()
        return self.decimal_of(code - 1) if code else None

    def decimal_of(self, code: int) -> float:
        """The decimal number of a code."""
        digits, power = code >> 5, (code & 31) - 15
        need(digits < 2**42 and (power < 16 or digits == 0), "a malformed decimal")
        if power == 16:
            return ranged(struct.unpack("<d", self.take(8))[0])
        return ranged(float(digits * 10**power) if power >= 0 else digits / 10**-power)


def unzigzag(code: int) -> int:
    """0, -1, 1, -2, 2, ..."""
    return -(code // 2) - 1 if code % 2 else code // 2


def ranged(number: float) -> float:
    """A number that is at least 0 and below 2^63."""
    need(math.isfinite(number) and 0 <= number < 2.0**63, "a number is out of range")
    return number


# 2. The head ---------------------------------------------------------------------------------------------------------

MAX_RANK = 2**20
MAX_JSON = 2**24
METHOD_NAME = re.compile(r"[a-z0-9][a-z0-9-]*/[1-9][0-9]{0,8}")
LAYOUTS = ("linear", "transposed", "conv", "embedding", "expert", "expert_transposed")
METRICS = (None, "accuracy", "loss", "F1", "squared error")


class Entry(NamedTuple):
    """One packed tensor."""

    role: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    stored: str


class Head(NamedTuple):
    """Everything that is told of the blocks; `metadata` has the numbers of the head as well."""

    metadata: dict[str, Any]
    sites: dict[str, Site]
    config: dict[str, Any]
    extras: list[Entry]
    source_header: bytes
    gains: tuple[int, ...]
    basis_sizes: tuple[int, ...]
    lengths: list[int]
    grouped: int
    shared: int
    basis: int


def parse_head(data: bytes) -> Head:
    """Sections 2.1 and 4: the numbers, then what is deflated, then the index."""
    reader = Reader(data)
    flags = reader.whole()
    need(flags < 256, "the head has parts that this decoder does not know")
    has_source, has_report, has_gains, has_sizes, has_config, has_header, has_shared, has_basis = (
        bool(flags >> bit & 1) for bit in range(8)
    )
    numbers: dict[str, Any] = {"step": ranged(struct.unpack("<f", reader.take(4))[0]), "error": reader.decimal()}
    numbers |= {"parameters": reader.whole(), "max_rank": reader.whole(MAX_RANK), "seed": reader.whole()}
    numbers["source"] = [reader.whole(), base64url(reader.take(16)) if has_source else None]
    basis_hash = base64url(reader.take(16)) if has_basis else ""
    numbers["distilled"] = parse_report(reader) if has_report else None
    present = (has_sizes, has_config, has_header, has_shared)
    basis_size, config_size, header_size, shared_size = (reader.whole(2**42 - 1) if it else 0 for it in present)
    need(config_size <= MAX_JSON, "a JSON text is too long")
    texts, index = inflate(data[reader.place :])
    line, _, tables = texts.partition(b"\n")
    need(len(line) <= MAX_JSON, "a JSON text is too long")
    metadata = parse_metadata(line) | numbers
    check_basis(metadata.get("basis"), basis_hash)
    sites = parse_modules(metadata["modules"])
    rows = Reader(tables)
    gains = struct.unpack(f"{len(sites)}b", rows.take(len(sites))) if has_gains else ()
    sizes = tuple(rows.whole(MAX_RANK) for _ in sites) if has_sizes else ()
    for size, site in zip(sizes, sites.values(), strict=False):
        need(size <= max(site.out, site.width), "a basis has more directions than its module")
    if metadata.get("basis") and metadata["basis"][0] == "start":
        metadata["offsets"] = parse_offsets(rows, sum(size > 0 for size in sizes))
    config_text, header = rows.take(config_size), rows.take(header_size)
    need(rows.place == len(tables), "bytes follow the tables")
    config = parse_adapter(metadata["adapter"]) if "adapter" in metadata else {}
    need(not (has_config and config), "the configuration is there twice")
    lengths, grouped = parse_index(index, list(sites.values()))
    return Head(
        metadata=metadata,
        sites=sites,
        config=parse_text(config_text) if has_config else config,
        extras=parse_extras(metadata["extras"]),
        source_header=header,
        gains=gains,
        basis_sizes=sizes,
        lengths=lengths,
        grouped=grouped,
        shared=shared_size,
        basis=basis_size,
    )


def base64url(data: bytes) -> str:
    """A hash as text."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def parse_report(reader: Reader) -> list[Any]:
    """Section 2.2: four counts, the metric, and four rows of three figures."""
    counts = [reader.whole() for _ in range(4)]
    metric = reader.whole()
    need(metric < len(METRICS), "an unknown metric")
    return [*counts, METRICS[metric], *([reader.figure() for _ in range(3)] for _ in range(4))]


def parse_metadata(text: str | bytes) -> dict[str, Any]:
    """Section 2.3: the metadata with its defaults filled in."""
    value: dict[str, Any] = strict_json(text)
    need(isinstance(value, dict), "the metadata is no object")
    need(value.get("requires", []) == [], "the file requires what this decoder lacks")
    defaults = {"base": "", "config": {}, "dialect": "peft", "dtype": "F32", "extras": [], "method": "svd/1"}
    value = {**defaults, "renamed": False, **value}
    for key in ("by", "method", "base", "dialect", "dtype"):
        need(isinstance(value.get(key), str), f"{key!r} is not text")
    need(isinstance(value["renamed"], bool), "'renamed' is neither true nor false")
    need(isinstance(value["config"], dict) and isinstance(value.get("modules"), list), "'config' or 'modules'")
    need(isinstance(value["extras"], list), "'extras' is no list")
    name, _, version = value["method"].partition("/")
    need(METHOD_NAME.fullmatch(value["method"]) is not None, "'method' is no name and version")
    need(isinstance(value["config"].get("lossless", False), bool), "'lossless' is neither true nor false")
    if not (value["config"].get("lossless", False) and value["modules"]):
        need(name in METHODS and version == "1", f"unknown method {value['method']!r}")
        METHODS[name].check({key: item for key, item in value["config"].items() if key != "lossless"})
    need(value["dtype"] in ("F32", "F16", "BF16"), "'dtype' is none of a factor")
    return value


def parse_adapter(item: Any) -> dict[str, Any]:
    """Section 2.4: the configuration of differences from one of `peft_defaults.json`."""
    table = json.loads(DEFAULTS_FILE.read_text())
    need(isinstance(item, list) and len(item) >= 2, "'adapter' is malformed")
    number, differing, *absent = item
    need(type(number) is int and 0 <= number <= len(table["newer"]), "'adapter' has an unknown number")
    need(isinstance(differing, dict), "'adapter' is malformed")
    newer = {key for keys in table["newer"][:number] for key in keys}
    fields = {key: default for key, default in table["fields"].items() if number and key not in newer}
    for key in absent:
        need(isinstance(key, str) and key in fields.keys() - differing.keys(), "'adapter' lacks what it cannot lack")
    merged = {key: default for key, default in fields.items() if key not in absent} | differing
    return dict(sorted(merged.items())) if number else merged


def parse_extras(table: list[Any]) -> list[Entry]:
    """Section 2.5: the table of extras."""
    entries = []
    for item in table:
        need(isinstance(item, list) and 2 <= len(item) <= 5, "an extra's entry is malformed")
        name, shape, *rest = item
        need(all(isinstance(text, str) for text in (name, *rest)), "an extra's entry is malformed")
        dtype = rest[0] if rest else "F32"
        stored = rest[1] if len(rest) > 1 else dtype
        role = rest[2] if len(rest) > 2 else "extra"
        need(isinstance(shape, list) and len(shape) <= 16 and whole_numbers(shape, len(shape)), "an extra's shape")
        need(math.prod(n for n in shape if n) < 2**40, "an extra is too large")
        entries.append(Entry(role, name, dtype, tuple(shape), stored))
    need(len({(e.role, e.name) for e in entries}) == len(entries), "an extra is repeated")
    factor = re.compile(r"^lora_|\.lora_|\.vblora_|lora_latent_mapping")
    need(not any(e.role == "extra" and factor.search(e.name) for e in entries), "an extra is named as part of a factor")
    return entries


# 3. Module names -----------------------------------------------------------------------------------------------------

MAX_MODULES = 10**6
MAX_TEXT = 2**26
MAX_WIDTH = 2**31 - 1


def parse_modules(entries: list[Any]) -> dict[str, Site]:
    """Sites by module name, sorted."""
    sites: dict[str, Site] = {}
    text = 0
    for entry in entries:
        need(isinstance(entry, list) and 3 <= len(entry) <= 5 and isinstance(entry[0], str), "module entry")
        fields: list[Any] = [*entry, *["linear", []][len(entry) - 3 :]]
        pattern, out, width, layout, kernel = fields
        need(layout in LAYOUTS and (len(entry) < 5 or layout == "conv"), "module entry has an unknown layout")
        need(isinstance(kernel, list) and len(kernel) <= 8, "module entry has a malformed kernel")
        need(all(type(n) is int and 0 < n <= MAX_WIDTH for n in (out, width, *kernel)), "module entry has a bad size")
        need(width % math.prod(kernel) == 0, "a kernel does not divide its width")
        pieces = parse_pattern(pattern)
        count = 1
        for piece in pieces:
            count *= sum(1 if isinstance(item, str) else item.stop - item.start for item in piece)
            need(count + len(sites) <= MAX_MODULES, "too many modules")
        longest = (max(len(i if isinstance(i, str) else str(i[-1])) for i in piece) for piece in pieces)
        text += count * sum(longest)
        need(text <= MAX_TEXT, "module names are too long")
        for parts in product(*(spelled(piece) for piece in pieces)):
            name = "".join(parts)
            need(name not in sites, "a module name is repeated")
            sites[name] = Site(out, width, layout, tuple(kernel))
    for name, site in sites.items():
        if site.layout.startswith("expert"):
            match = re.fullmatch(r"(.+)\[(0|[1-9][0-9]{0,5})\]", name, re.DOTALL)
            need(match is not None and match[1] not in sites, "an expert's name is none, or its parameter is a module")
    return dict(sorted(sites.items()))


def parse_pattern(pattern: str) -> list[list[str | range]]:
    """The pieces of a pattern, each a list of alternatives."""
    pieces: list[list[str | range]] = []
    position = 0
    while position < len(pattern):
        if pattern[position] == "{":
            items, position = parse_braces(pattern, position + 1)
            pieces.append(items)
        else:
            text, position = take(pattern, position, "{}")
            pieces.append([unescape(text)])
    return pieces


def parse_braces(pattern: str, position: int) -> tuple[list[str | range], int]:
    """The alternatives up to the closing brace, and the position behind it."""
    items: list[str | range] = []
    while True:
        text, position = take(pattern, position, "{},")
        number = "(0|[1-9][0-9]{0,17})"
        run = re.fullmatch(f"{number}-{number}", text)
        if run:
            need(int(run[1]) < int(run[2]), "an empty range")
        items.append(range(int(run[1]), int(run[2]) + 1) if run else unescape(text))
        need(position < len(pattern) and pattern[position] != "{", "malformed braces")
        position += 1
        if pattern[position - 1] == "}":
            return items, position


def take(pattern: str, position: int, stops: str) -> tuple[str, int]:
    """Text up to the next unescaped character of `stops`; at least one character."""
    first = position
    while position < len(pattern) and pattern[position] not in stops:
        position += 2 if pattern[position] == "\\" else 1
    need(first < position <= len(pattern), "a pattern has an empty part or a lone backslash")
    return pattern[first:position], position


def unescape(text: str) -> str:
    """Drop the backslash before each escaped character."""
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def spelled(piece: Sequence[str | range]) -> list[str]:
    """All texts that a piece stands for."""
    return [text for item in piece for text in ([item] if isinstance(item, str) else map(str, item))]


# 4. What is deflated, and the index ----------------------------------------------------------------------------------

MAX_INFLATED = 2**26
MAX_LENGTH = 2**42 - 1


def inflate(data: bytes) -> tuple[bytes, bytes]:
    """Section 4.1: the texts and tables, and what follows the deflated data."""
    inflater = zlib.decompressobj(-15, zdict=DICTIONARY_FILE.read_bytes())
    try:
        texts = inflater.decompress(data, MAX_INFLATED)
    except zlib.error as error:
        raise Broken(f"the texts are damaged: {error}") from error
    need(inflater.eof, "the texts are damaged or too long")
    return texts, inflater.unused_data


def parse_text(text: bytes) -> dict[str, Any]:
    """A configuration that is kept as text."""
    try:
        config = json.loads(text.decode() or "{}")
    except (ValueError, RecursionError) as error:
        raise Broken(f"the configuration is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise Broken("the configuration is not a JSON object")
    return config


def check_basis(item: Any, found: str) -> None:
    """Section 4.2: null or [source, size, description, [generator, seed, hundredths]], the last two optional."""
    if item is None:
        need(not found, "a hash of a basis that is not named")
        return
    need(isinstance(item, list) and 2 <= len(item) <= 4, "'basis' is malformed")
    fields: list[Any] = [*item, *["", None][len(item) - 2 :]]
    source, size, description, start = fields
    need(source in ("base", "file", "embedded", "start", "reference", "bank"), "'basis' has an unknown source")
    need(type(size) is int and 0 < size <= MAX_RANK, "'basis' has an impossible size")
    need(isinstance(description, str), "'basis' is malformed")
    need(source in ("embedded", "start") or found != "", "'basis' has no hash")
    need((len(item) == 4) == (source == "start"), "a start that is none, or is missing")
    if source == "start":
        need(isinstance(start, list) and len(start) == 3 and isinstance(start[0], str), "a malformed start")
        need(whole_numbers(start[1:], 2) and start[1] < 2**64 and start[2] <= 100, "a start out of range")


def parse_offsets(rows: Reader, count: int) -> list[int]:
    """Section 4.2: the place of each module's numbers, as differences."""
    offsets, offset = [], 0
    for _ in range(count):
        offset += rows.signed()
        need(0 <= offset < 2**42, "an offset is out of range")
        offsets.append(offset)
    return offsets


def parse_index(data: bytes, sites: Sequence[Site]) -> tuple[list[int], int]:
    """Section 4.3: the length of each module's block, or of a group of all."""
    if not sites:
        need(data == b"", "an index of no modules")
        return [], 0
    if data[:1] == b"\x80":
        reader = Reader(data[1:])
        grouped = reader.whole(65536)
        need(grouped > 0 and reader.place == len(data) - 1, "the index is not of a group")
        return [], grouped
    need(len(data) > 0 and data[0] < 128 and data[0] & 63 < 43, "the index is missing or malformed")
    need(len(data) <= 12 * len(sites) + 1, "the index is too long")
    order, empty = data[0] & 63, data[0] >= 64
    bits = "".join(f"{byte:08b}" for byte in data[1:])
    place, last = 0, 0
    expected: dict[tuple[int, int], int] = {}
    lengths = []
    for site in sites:
        if empty:
            need(place < len(bits), "the index is too short")
            place += 1
            if bits[place - 1] == "0":
                lengths.append(0)
                continue
        one = bits.find("1", place)
        end = 2 * one - place + 1 + order
        need(place <= one <= place + 43 and end <= len(bits), "the index ends within a number")
        code = (int(bits[one : end - order], 2) - 1 << order) + int(bits[end - order : end] or "0", 2)
        shape = site.out, site.width
        length = expected.get(shape, last) + unzigzag(code)
        need(0 < length <= MAX_LENGTH, "the index holds an impossible length")
        expected[shape] = (expected[shape] + length + 1) >> 1 if shape in expected else length
        place, last = end, length
        lengths.append(length)
    need(len(bits) - place < 8 and "1" not in bits[place:], "the index is too long")
    return lengths, 0


def check_belongings(head: Head) -> None:
    """Which parts of the head and of the payload go together."""
    basis = head.metadata.get("basis")
    source = basis[0] if basis else ""
    need(bool(head.basis_sizes) <= (basis is not None), "sizes of a basis that is not named")
    if source in ("embedded", "start", "reference"):
        need(len(head.basis_sizes) == len(head.sites), "the sizes of the basis are missing")
    need(source != "bank" or not (head.basis_sizes or head.shared), "a bank is named, and another or sizes are there")
    need((source == "embedded") == (head.basis > 0), "a basis is embedded that is not named, or the other way round")
    if head.metadata["config"].get("lossless", False):
        spare = head.gains or head.shared or head.grouped or source not in ("", "start")
        need(not spare, "a lossless file has gains, a group, shared tensors, or a basis that is no start")


# 5. The entropy coder ------------------------------------------------------------------------------------------------

PRECISION = 24
Model = Sequence[int]
"""Left cumulative frequency of each symbol."""


def model(weights: Sequence[int]) -> Model:
    """Section 5.2: 24-bit cumulative frequencies from whole weights, each symbol keeping at least 1."""
    scale = (2**PRECISION - len(weights)) / float(sum(weights))
    lefts, before = [], 0
    for index, weight in enumerate(weights):
        lefts.append(int(float(before) * scale) + index)
        before += weight
    return lefts


class Ans:
    """Section 5.1: the stack of 32-bit words below a 64-bit state."""

    def __init__(self, data: bytes) -> None:
        data += b"\0" * (-len(data) % 4)
        self.words = list(struct.unpack(f"<{len(data) // 4}I", data))
        need(not self.words or self.words[-1] != 0, "coded data ends in zeros")
        self.state = 0
        for _ in range(2):
            if self.words:
                self.state = self.state << 32 | self.words.pop()

    def _take(self, quantile: int, left: int, probability: int) -> None:
        self.state = (self.state >> PRECISION) * probability + quantile - left
        if self.state < 2**32 and self.words:
            self.state = self.state << 32 | self.words.pop()

    def symbol(self, lefts: Model) -> int:
        """Decode one symbol under a model."""
        quantile = self.state % 2**PRECISION
        symbol = bisect_right(lefts, quantile) - 1
        right = lefts[symbol + 1] if symbol + 1 < len(lefts) else 2**PRECISION
        self._take(quantile, lefts[symbol], right - lefts[symbol])
        return symbol

    def uniform(self, size: int) -> int:
        """Section 5.3: decode a number below `size`."""
        if size <= 1:
            return 0
        quantile = self.state % 2**PRECISION
        share = 2**PRECISION // size
        number: int = min(quantile // share, size - 1)
        self._take(quantile, number * share, share if number < size - 1 else 2**PRECISION - number * share)
        return number

    def finish(self) -> None:
        """Nothing may be left."""
        need(self.state == 0 and not self.words, "coded data does not end where its numbers do")


# 6. A module's block -------------------------------------------------------------------------------------------------

SHAPES = 6
SCALES = 36
PER_OCTAVE = 6
LEVELS = 31
ESCAPE = 2 * LEVELS + 1
LARGEST_SCALE = SCALES - 1 + PER_OCTAVE * 15
NUMBERS_PER_BYTE = 16384
SHAPE_WEIGHTS = (2, 4, 10, 32, 12, 4, 1)
ZEROS = 6
RANK_WEIGHTS = (4, 4, 2)
LARGEST_GROUP = 65536
H0, H1 = 0o235, 0o126


class RowClass(NamedTuple):
    """A row's class: the shape and the scale of its distribution. Of shape `ZEROS`, all its numbers are 0."""

    shape: int
    scale: int

    @property
    def raw_bits(self) -> int:
        return max(0, -((SCALES - 1 - self.scale) // PER_OCTAVE))

    @property
    def table(self) -> int:
        return self.shape * SCALES + self.scale - PER_OCTAVE * self.raw_bits


class Spec(NamedTuple):
    """A stored tensor: kind "real", "index" or "simplex"; `bound` of the latter two."""

    rows: int
    width: int
    kind: str = "real"
    bound: int = 0


Shapes = Callable[[int], Sequence[Spec]]
Kind = tuple[int, ...] | None


def decode_block(chunk: bytes, max_rank: int, shapes: Shapes) -> list[NDArray[np.int64]]:
    """The tensors of a block, real ones in units of the step."""
    coder = Ans(chunk)
    specs = shapes(coder.uniform(max_rank) + 1)
    need_room(sum(spec.rows * spec.width for spec in specs), len(chunk))
    tensors = decode_tensors(coder, Contexts(), None, specs)
    need(any(spec.kind == "real" for spec in specs) or coder.uniform(2) == 1, "whole numbers lack their guard")
    coder.finish()
    return tensors


def decode_group(
    data: bytes, max_rank: int, modules: Sequence[tuple[Kind, Shapes]]
) -> list[list[NDArray[np.int64]] | None]:
    """Section 6.7: the tensors of each module; None for a zero one."""
    need(0 < len(data) <= LARGEST_GROUP, "the one bit string of the modules is too long")
    found: list[list[NDArray[np.int64]] | None] = []
    coder, contexts, numbers = Ans(data), Contexts(), 0
    for kind, shapes in modules:
        rank = contexts.rank(coder, kind, max_rank)
        specs = shapes(rank) if rank else []
        numbers += sum(spec.rows * spec.width for spec in specs)
        need_room(numbers, len(data))
        tensors = decode_tensors(coder, contexts, kind, specs)
        found.append(tensors if rank else None)
    coder.finish()
    return found


def need_room(numbers: int, size: int) -> None:
    """Refuse more numbers than so few bytes may hold."""
    need(numbers <= NUMBERS_PER_BYTE * (size + 64), "more numbers than so few bytes can hold")


def decode_tensors(coder: Ans, contexts: Contexts, kind: Kind, specs: Sequence[Spec]) -> list[NDArray[np.int64]]:
    """The classes of the rows of a module's tensors of real numbers, then all its numbers."""
    classes = iter(contexts.classes(coder, kind, [(s.rows, s.width) for s in specs if s.kind == "real"]))
    return [
        decode_numbers(coder, spec.rows, spec.width, next(classes))
        if spec.kind == "real"
        else decode_whole(coder, spec)
        for spec in specs
    ]


def decode_whole(coder: Ans, spec: Spec) -> NDArray[np.int64]:
    """Section 6.6: a tensor of whole numbers."""
    size = spec.bound if spec.kind == "index" else spec.bound // 2 + 1
    numbers = [coder.uniform(size) for _ in range(spec.rows * spec.width)]
    tensor = np.array(numbers, dtype=np.int64).reshape(spec.rows, spec.width)
    need(spec.kind == "index" or not (tensor.sum(1) > spec.bound).any(), "weights add up to more than 1")
    return tensor


class Counts:
    """Section 6.2: weights that grow with use, and are halved beyond a sum."""

    def __init__(self, weights: Sequence[int], step: int, most: int) -> None:
        self.weights, self.step, self.most = list(weights), step, most

    def symbol(self, coder: Ans) -> int:
        symbol = coder.symbol(model(self.weights))
        self.weights[symbol] += self.step
        if sum(self.weights) > self.most:
            self.weights = [(weight + 1) // 2 for weight in self.weights]
        return symbol


class Differences:
    """Section 6.2: the model of differences of scales."""

    def __init__(self) -> None:
        self.sum, self.count = 2, 1

    def symbol(self, coder: Ans) -> int:
        falling = [2**20]
        for _ in range(LARGEST_SCALE):
            falling.append(falling[-1] * self.sum // (self.sum + self.count))
        found = coder.symbol(model([weight + 16 for weight in falling[:0:-1] + falling])) - LARGEST_SCALE
        self.sum, self.count = self.sum + abs(found), self.count + 1
        if self.count > 20:
            self.sum, self.count = (self.sum + 1) // 2, (self.count + 1) // 2
        return found


class Contexts:
    """What is remembered along a bit string."""

    def __init__(self) -> None:
        self.shapes: dict[tuple[int, bool], Counts] = {}
        self.differences: dict[tuple[int, bool], Differences] = {}
        self.firsts: dict[Kind, list[int]] = {}
        self.choices: dict[bool | None, Counts] = {}
        self.zero: dict[Kind, bool] = {}
        self.ranks: dict[Kind, int] = {}

    def rank(self, coder: Ans, kind: Kind, max_rank: int) -> int:
        """Section 6.7."""
        choice = self.choices.setdefault(self.zero.get(kind), Counts(RANK_WEIGHTS, 8, 128)).symbol(coder)
        self.zero[kind] = choice == 0
        if choice == 0:
            return 0
        rank = self.ranks.get(kind, self.ranks.get(None, 1)) if choice == 1 else coder.uniform(max_rank) + 1
        self.ranks[kind] = self.ranks[None] = rank
        return rank

    def classes(self, coder: Ans, kind: Kind, sizes: Sequence[tuple[int, int]]) -> list[list[RowClass]]:
        """Section 6.2: the classes of rows of tensors of these (rows, width)."""
        before = self.firsts.get(kind) or self.firsts.get(None) or []
        scales: list[list[int]] = []
        found: list[list[RowClass]] = []
        for tensor, (rows, _) in enumerate(sizes):
            scales.append([])
            found.append([])
            for row in range(rows):
                scale = min(max(expected_scale(scales, before, [width for _, width in sizes]), 0), LARGEST_SCALE)
                after_zeros = row > 0 and found[tensor][-1].shape == ZEROS
                shape = self.shapes.setdefault((tensor, after_zeros), Counts(SHAPE_WEIGHTS, 32, 1024)).symbol(coder)
                if shape != ZEROS:
                    scale += self.differences.setdefault((tensor, row == 0), Differences()).symbol(coder)
                scales[tensor].append(min(max(scale, 0), LARGEST_SCALE))
                found[tensor].append(RowClass(shape, scales[tensor][-1]))
        if any(scales):
            self.firsts[kind] = self.firsts[None] = [(own or scales[0] or [15])[0] for own in scales]
        return found


def expected_scale(scales: Sequence[Sequence[int]], before: Sequence[int], widths: Sequence[int]) -> int:
    """The scale that the next row of the last tensor in `scales` is expected to have."""
    tensor, first, own = len(scales) - 1, scales[0], scales[-1]
    row = len(own)
    if row > 0:
        moved = first[row] - first[row - 1] if tensor > 0 and row < len(first) else 0
        return own[-1] + moved
    if tensor == 0:
        return before[0] if before else 15
    if not first:
        return 15
    if tensor < len(before):
        return first[0] + before[tensor] - before[0]
    return first[0] + ((widths[0] ** 6).bit_length() - (widths[tensor] ** 6).bit_length()) // 2


def level_models(table: int) -> tuple[Model, Model]:
    """Section 6.3: the two models of a table, for quantiser 0 and 1."""
    size = LEVELS + 2
    numbers = struct.unpack(f"<{SHAPES * SCALES * 2 * size}H", TABLES_FILE.read_bytes())
    models = []
    for quantiser in (0, 1):
        start = (2 * table + quantiser) * size
        row = numbers[start : start + size]
        models.append(model([*row[LEVELS:0:-1], *row]))
    return models[0], models[1]


def next_state(state: int, parity: int) -> int:
    """Section 6.4: the trellis."""
    return state >> 1 ^ (state & 1) * (H0 >> 1) ^ parity * (H1 >> 1)


def decode_numbers(coder: Ans, rows: int, width: int, classes: Sequence[RowClass]) -> NDArray[np.int64]:
    """Sections 6.4 and 6.5: one tensor."""
    state = 0
    values: list[int] = []
    models = {c.table: level_models(c.table) for c in classes if c.shape != ZEROS}
    for c in classes:
        for _ in range(width):
            q = state & 1
            k = 0 if c.shape == ZEROS else decode_level(coder, c.raw_bits, models[c.table][0 if c.raw_bits else q])
            values.append(2 * k - q * ((k > 0) - (k < 0)))
            state = next_state(state, k & 1)
    return np.array(values, dtype=np.int64).reshape(rows, width)


def decode_level(coder: Ans, raw: int, symbols: Model) -> int:
    """Section 6.5: one level."""
    k = coder.symbol(symbols) - LEVELS
    if k > LEVELS:
        length = coder.uniform(24)
        need(length + raw <= 20, "a level is too large")
        sign = 1 - 2 * coder.uniform(2)
        k = sign * (LEVELS + 2**length + coder.uniform(2**length))
    if raw:
        k = (k << raw) + coder.uniform(2**raw) - 2 ** (raw - 1)
    return k


# 7. Methods (methods/*.md) -------------------------------------------------------------------------------------------

FACTOR_NUMBERS_PER_BYTE = 65536
FRACTIONS = struct.unpack("<4f", struct.pack("<4I", 0x3F800000, 0x3F5744FD, 0x3F3504F3, 0x3F1837F0))
"""2^(-j/4), float32."""
Config = Mapping[str, Any]
Stored = Sequence[NDArray[np.int64]]


class Plan(NamedTuple):
    """What every module of a file is decoded with: metadata, shared tensors, basis or frames, and first values of A."""

    metadata: Mapping[str, Any]
    method: Method
    config: Config
    step: np.float32
    shared: tuple[NDArray[np.int64], ...]
    basis: Basis
    frames: Mapping[str, Floats]
    first: Mapping[str, Floats]


class Method(NamedTuple):
    """What a method's page says, as functions.

    Attributes:
        check: refuses wrong options.
        specs: tensors of a module: (site, rank, config).
        most: largest rank: (site, config).
        factors: A and B: (stored, name, site, plan).
        shared: shared tensors: (config); none for most methods.
        middle: rank of the factors: (site, rank, config).
        needs_basis: whether a basis must be named.
        frames: whether vectors are coded in frames where a basis is named.
        banks: whether the shared tensors may be a bank that is named.
        linear: whether it stores updates; else A and B are the matrices of functions.
    """

    check: Callable[[Config], None]
    specs: Callable[[Site, int, Config], list[Spec]]
    most: Callable[[Site, Config], int]
    factors: Callable[[Stored, str, Site, Plan], tuple[Floats, Floats]]
    shared: Callable[[Config], list[Spec]] = lambda _: []
    middle: Callable[[Site, int, Config], int] = lambda _, rank, __: rank
    needs_basis: bool = False
    linear: bool = True
    frames: bool = False
    banks: bool = False


def plan_of(head: Head, block: bytes, embedded: bytes, size: int, basis: Basis | None) -> Plan:
    """Decode what modules share and take, make or decode the basis (section 7.2).

    Args:
        size: bytes of all blocks, the shared one among them.
    """
    metadata = head.metadata
    config = metadata["config"]
    # A lossless file may name any method, and has no use for it.
    method = METHODS.get(metadata["method"].partition("/")[0], METHODS["svd"])
    step = np.float32(metadata["step"])
    named: list[Any] = metadata.get("basis") or []
    if config.get("lossless", False):
        numbers = start_numbers(head, size) if named else {}
        first = {name: first_values(named[3][0], N) for name, N in numbers.items()}
        return Plan(metadata, method, config, step, (), {}, {}, first)
    need(method.linear or not head.gains, "functions have gains")
    if method.banks and named:
        need(named[0] == "bank", "vectors come from what is no bank")
        need(basis is not None and BANK in basis, "the bank was not given")
        need((basis or {})[BANK][0].shape == vblora_settled(config)[2:0:-1], "the bank is of another size")
        return Plan(metadata, method, config, step, (), basis or {}, {}, {})
    specs = method.shared(config)
    need(bool(specs) == (len(block) > 0), "shared tensors are missing, or the method has none")
    shared = decode_block(block, 1, lambda _: specs) if specs else []
    need(bool(named) or not method.needs_basis, "a basis is missing")
    need(not named or method.needs_basis or method.frames, "a basis that the method does not need")
    frames = frames_of(head, size, basis) if named and method.frames else {}
    need(not method.needs_basis or named[0] not in ("start", "reference", "bank"), "cores stand on what is no basis")
    if method.needs_basis and named[0] == "embedded":
        basis = unpack_basis(head.basis_sizes, embedded, head.sites)
    need(not method.needs_basis or basis is not None, "the basis was not given")
    return Plan(metadata, method, config, step, tuple(shared), basis or {}, frames, {})


def frames_of(head: Head, size: int, basis: Basis | None) -> dict[str, Floats]:
    """Section 7.2: V (in, k) of each module that has a frame; those of outputs are taken from the basis."""
    source, both = str(head.metadata["basis"][0]), head.metadata["config"].get("sides") == 2
    need(source not in ("embedded", "bank"), "frames are embedded, or vectors")
    if source == "file":
        check_sizes(head)
        added = sum(k * (site.width + both * site.out) for (_, site), k in zip_sizes(head))
        need(added <= 2**28 + 2**18 * size, "the frames are too much work for so few bytes")
    else:
        need(not both, "frames of outputs that are in no file")
        check_frames(head, size)
        work = sum(k * k * site.width for (_, site), k in zip_sizes(head))
        need(work <= 2**28 + 2**18 * size, "the frames are too much work for so few bytes")
    if source == "start":
        return {name: made(frame, N) for name, N in start_numbers(head, size).items()}
    need(basis is not None, "the frames were not given")
    found = {}
    for (name, site), k in zip_sizes(head):
        if k:
            need(basis is not None and name in basis, "the frames lack a module")
            U, V = (basis or {})[name][:2]
            need(V.shape[0] == site.width and V.shape[1] >= k, "a frame does not fit its module")
            need(not both or (U.shape[0] == site.out >= k), "a frame does not fit its module's outputs")
            found[name] = V[:, :k]
    return found


def check_sizes(head: Head) -> None:
    """The limits of section 7.2 on each frame."""
    need(any(head.basis_sizes), "no module has a frame")
    for (_, site), k in zip_sizes(head):
        need(not k or (k <= min(1024, site.width) and site.width < 2**16), "a frame is too large")


def check_frames(head: Head, size: int) -> None:
    """The part of section 7.2's limits that holds of lossless files too."""
    check_sizes(head)
    numbers = sum(k * site.width for (_, site), k in zip_sizes(head))
    need(numbers <= 2**22 + 2**12 * size, "the frames have too many numbers for so few bytes")


def start_numbers(head: Head, size: int) -> dict[str, NDArray[np.int64]]:
    """N of each module that begins with a generator's numbers."""
    check_frames(head, size)
    generator, seed, _ = head.metadata["basis"][3]
    framed = [(name, k, site.width) for (name, site), k in zip_sizes(head) if k]
    places = zip(head.metadata["offsets"], framed, strict=True)
    modules = {name: StartModule(offset, k, width) for offset, (name, k, width) in places}
    found: dict[str, NDArray[np.int64]] = made(start_matrices, generator, seed, modules)
    return found


def made(make: Callable[..., Any], *arguments: Any) -> Any:
    """What starts-1.md says is made; its refusals are this page's."""
    try:
        return make(*arguments)
    except BrokenStart as error:
        raise Broken(str(error)) from error


def first_values(generator: str, N: NDArray[np.int64]) -> Floats:
    """Section 9: what A began with."""
    rows, width = N.shape
    values: NDArray[np.float64] = N * 2.0**-20 / rows
    if generator != "normal":
        values = N * 2.0**-23 / np.sqrt(np.float64(width))
    return values.astype(np.float32)


def decode_module(chunk: bytes, name: str, site: Site, gain: int, plan: Plan) -> Module:
    """The factors of one module."""
    if plan.config.get("lossless", False):
        return decode_exact(chunk, site, plan.first.get(name))
    stored = decode_block(chunk, plan.metadata["max_rank"], specs_of(site, plan, len(chunk))) if chunk else None
    return module_of(stored, name, site, gain, plan)


def decode_modules(data: bytes, sites: Mapping[str, Site], gains: Sequence[int], plan: Plan) -> dict[str, Module]:
    """The factors of all modules of one bit string."""
    need(not plan.config.get("lossless", False), "a lossless file has no index")
    total = 0

    def counted(site: Site) -> Shapes:
        specs = specs_of(site, plan, len(data))

        def count(rank: int) -> Sequence[Spec]:
            nonlocal total
            found = specs(rank)
            total += factor_numbers(site, rank, plan)
            need_factors(total, len(data))
            return found

        return count

    kinds = [((site.out, site.width, site.frame), counted(site)) for site in sites.values()]
    stored = decode_group(data, plan.metadata["max_rank"], kinds)
    return {
        name: module_of(own, name, site, gain, plan)
        for own, (name, site), gain in zip(stored, sites.items(), gains, strict=True)
    }


def specs_of(site: Site, plan: Plan, size: int) -> Shapes:
    """A module's tensors by its rank, for decoding it from `size` bytes."""

    def specs(rank: int) -> list[Spec]:
        most = min(plan.metadata["max_rank"], plan.method.most(site, plan.config))
        need(rank <= most, "a rank is out of range")
        need_factors(factor_numbers(site, rank, plan), size)
        return plan.method.specs(site, rank, plan.config)

    return specs


def factor_numbers(site: Site, rank: int, plan: Plan) -> int:
    """Numbers in the factors of a module."""
    return plan.method.middle(site, rank, plan.config) * (site.out + site.width)


def need_factors(numbers: int, size: int) -> None:
    """Refuse factors of more numbers than so few bytes may stand for."""
    need(numbers <= FACTOR_NUMBERS_PER_BYTE * (size + 64), "larger factors than so few bytes can stand for")


def module_of(stored: Sequence[NDArray[np.int64]] | None, name: str, site: Site, gain: int, plan: Plan) -> Module:
    """The factors of decoded tensors; of None, those of a zero update."""
    if stored is None:
        return Module(np.zeros((0, site.width), np.float32), np.zeros((site.out, 0), np.float32), 1.0)
    with np.errstate(all="ignore"):
        A, B = plan.method.factors(stored, name, site, plan)
        A = A * undo_gain(gain)
    need(bool(np.isfinite(A).all() and np.isfinite(B).all()), "a factor is not finite")
    return Module(np.ascontiguousarray(A), np.ascontiguousarray(B), 1.0, tuple(stored))


def undo_gain(gain: int) -> np.float32:
    """Section 7.1: 2^(-gain/4)."""
    octave, fraction = divmod(gain, 4)
    return np.float32(FRACTIONS[fraction] * 2.0**-octave)


def unpack_basis(sizes: Sequence[int], payload: bytes, sites: Mapping[str, Site]) -> Basis:
    """Section 7.2: an embedded basis."""
    entries = []
    for size, (name, site) in zip(sizes, sites.items(), strict=True):
        need(size <= max(site.out, site.width), "a basis has more directions than its module")
        entries += [Entry("basis", name, "F16", (length, size), "F16") for length in (site.out, site.width)]
    sides = [tensor.words.astype(np.float32) for tensor in unpack(entries, payload)]
    return {name: (sides[2 * i], sides[2 * i + 1]) for i, name in enumerate(sites)}


def check_options(config: Config, types: Mapping[str, tuple[type, ...]]) -> None:
    """Refuse unknown options and values of other types; a whole number is a number, true and false are not."""
    need(config.keys() <= types.keys(), "unknown option")
    for key, value in config.items():
        allowed = (*types[key], int) if float in types[key] else types[key]
        need(type(value) in allowed, f"option {key!r} is of the wrong type")
        need(type(value) is not int or abs(value) < 2**63, f"option {key!r} is out of range")


def square_roots(U: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lengths of rows of directions."""
    squares = np.square(U).sum(1)
    need(int(squares.max()) < 2**53, "a row of directions is too long")
    roots: NDArray[np.float64] = np.sqrt(squares.astype(np.float64))
    return roots


# methods/svd.md


def svd_specs(site: Site, rank: int, config: Config) -> list[Spec]:
    inside = [Spec(rank, site.frame)] if site.frame else []
    outside = inside if config.get("sides") == 2 else []
    return [*outside, Spec(rank, site.out), *inside, Spec(rank, site.width)]


def svd_factors(stored: Stored, name: str, site: Site, plan: Plan) -> tuple[Floats, Floats]:
    if not site.frame:
        U, V = stored
        return V.astype(np.float32) * plan.step, unit_rows(U).T
    *outside, U, C, V = stored
    A = in_frame(C.astype(np.float32) * plan.step, plan.frames[name], V.astype(np.float32) * plan.step)
    unit = unit_rows_in(outside[0], plan.basis[name][0][:, : site.frame], U) if outside else unit_rows(U)
    return A.astype(np.float32), unit.T


def unit_rows(U: NDArray[np.int64]) -> Floats:
    lengths: Floats = np.maximum(square_roots(U).astype(np.float32), np.finfo(np.float32).tiny)
    unit: Floats = U.astype(np.float32) / lengths[:, None]
    return unit


def unit_rows_in(D: NDArray[np.int64], G: Floats, U: NDArray[np.int64]) -> Floats:
    square_roots(D)
    square_roots(U)
    rows = in_frame(D, G, U)
    squares = np.square(rows)
    length = 2 ** (squares.shape[1] - 1).bit_length()
    squares = np.pad(squares, ((0, 0), (0, length - squares.shape[1])))
    while squares.shape[1] > 1:
        first, second = np.split(squares, 2, axis=1)
        squares = first + second
    unit = np.where(squares > 0, rows / np.where(squares > 0, np.sqrt(squares), 1.0), 0.0)
    return unit.astype(np.float32)


def in_frame(coordinates: NDArray[Any], directions: Floats, rest: NDArray[Any]) -> NDArray[np.float64]:
    total = rest.astype(np.float64)
    for d in range(directions.shape[1]):
        total = total + coordinates[:, d, None].astype(np.float64) * directions[:, d].astype(np.float64)
    return total


def svd_check(config: Config) -> None:
    check_options(config, {"sides": (int, type(None))})
    need(config.get("sides") in (None, 1, 2), "sides is neither 1 nor 2")


SVD = Method(
    svd_check,
    svd_specs,
    lambda site, _: min(site.out, site.width),
    svd_factors,
    frames=True,
)


# methods/vblora.md


def vblora_check(config: Config) -> None:
    nothing = type(None)
    check_options(
        config,
        {
            "rank": (int, nothing), "length": (int, nothing), "vectors": (int, nothing), "top_k": (int, nothing),
            "levels": (int,), "memory": (float,), "uniform": (bool,), "floor": (float, nothing), "scale": (float,),
        },
    )  # fmt: skip
    for key, most in (("rank", 2**20), ("length", 2**20), ("vectors", 2**20), ("top_k", 8)):
        need(config.get(key) is None or 1 <= config[key] <= most, f"{key!r} is out of range")
    if config.get("vectors") is not None and config.get("top_k") is not None:
        need(config["top_k"] <= config["vectors"], "'top_k' is larger than the bank")
    levels = config.get("levels", 64)
    need(2 <= levels <= 65536 and levels & (levels - 1) == 0, "'levels' is no power of two in range")
    need(config.get("memory", 1.0) > 0, "'memory' is out of range")
    need(config.get("floor") is None or 0 <= config["floor"] < 1, "'floor' is out of range")
    scale = config.get("scale", 1.0)
    need(math.isfinite(scale) and scale > 0 and math.frexp(scale)[0] == 0.5, "'scale' is no power of two")
    need(math.isfinite(config.get("memory", 1.0)), "'memory' is out of range")


def vblora_settled(config: Config) -> tuple[int, int, int, int]:
    """Rank, length, vectors and top_k."""
    found = tuple(config.get(key) for key in ("rank", "length", "vectors", "top_k"))
    need(None not in found, "an option is missing")
    return found  # type: ignore[return-value]


def vblora_specs(site: Site, rank: int, config: Config) -> list[Spec]:
    _, length, vectors, k = vblora_settled(config)
    specs = []
    for width in (site.width, site.out):
        rows = rank * -(-width // length)
        specs += [Spec(rows, k, "index", vectors), Spec(rows, k - 1, "simplex", config.get("levels", 64))]
    return specs


def vblora_shared(config: Config) -> list[Spec]:
    _, length, vectors, _ = vblora_settled(config)
    return [Spec(vectors, length)]


def vblora_factors(stored: Stored, name: str, site: Site, plan: Plan) -> tuple[Floats, Floats]:
    levels = plan.config.get("levels", 64)
    own = plan.basis[BANK][0] if plan.basis else plan.shared[0].astype(np.float32) * plan.step
    bank = own / np.float32(plan.config.get("scale", 1.0))
    sides = []
    for (indices, small), width in ((stored[:2], site.width), (stored[2:], site.out)):
        weights = np.concatenate([small, levels - small.sum(1, keepdims=True)], 1).astype(np.float32) / levels
        weights = weights.astype(np.float32)
        pieces = bank[indices[:, 0]] * weights[:, :1]
        for term in range(1, indices.shape[1]):
            pieces = pieces + bank[indices[:, term]] * weights[:, term : term + 1]
        rows = pieces.reshape(len(pieces) // -(-width // bank.shape[1]), -1)
        sides.append(rows[:, :width])
    return sides[0], sides[1].T


VBLORA = Method(
    vblora_check, vblora_specs, lambda _, config: vblora_settled(config)[0], vblora_factors, vblora_shared, banks=True
)


# methods/lora-xs.md and methods/lora-sb.md


def core_specs(site: Site, rank: int, config: Config) -> list[Spec]:
    numbers = rank * (rank - 1)
    if not numbers:
        return [Spec(1, rank)]
    rows = next((d for d in range(max(1, numbers // 48), 1, -1) if numbers % d == 0), 1)
    return [Spec(1, rank), Spec(rows, numbers // rows)]


def core_factors(stored: Stored, name: str, site: Site, plan: Plan) -> tuple[Floats, Floats]:
    rank = stored[0].size
    need(name in plan.basis, "the basis lacks a module")
    U, V, *mean = plan.basis[name]
    need(U.shape[0] == site.out and V.shape[0] == site.width, "the basis does not fit a module")
    need(rank <= U.shape[1], "a core is larger than its basis")
    core = np.zeros((rank, rank), np.float32)
    places = sorted((max(i, j), i, j) for i in range(rank) for j in range(rank) if i != j)
    rest = stored[1].reshape(-1) if places else np.zeros(0)
    for (_, i, j), number in zip(places, rest, strict=True):
        core[i, j] = np.float32(number) * plan.step
    core[range(rank), range(rank)] = stored[0][0].astype(np.float32) * plan.step
    if plan.config.get("mean") and mean:
        most = plan.config.get("rank")
        size = U.shape[1] if most is None else min(U.shape[1], most)
        core = mean[0][:size, :size] + np.pad(core, (0, size - rank))
        rank = size
    return V[:, :rank].T, (U[:, :rank].astype(np.float64) @ core.astype(np.float64)).astype(np.float32)


CORE = Method(
    lambda config: check_options(
        config, {"rank": (int, type(None)), "min_energy": (float,), "mean": (bool, type(None))}
    ),
    core_specs,
    lambda site, _: max(site.out, site.width),
    core_factors,
    needs_basis=True,
)


# methods/loretta.md


class Side(NamedTuple):
    """Modes k[1..d] and bond ranks r[0..d] of one side."""

    modes: list[int]
    ranks: list[int]


def loretta_check(config: Config) -> None:
    nothing = type(None)
    whole = (int, nothing)
    types = {
        "order": (str, nothing),
        "rank": whole,
        "lora_rank": whole,
        "sweeps": (int,),
        "tolerance": (float, nothing),
    }
    check_options(config, types)
    need(config.get("order") in (None, "delta", "rep"), "'order' is unknown")
    for key in ("rank", "lora_rank"):
        need(config.get(key) is None or config[key] >= 1, f"{key!r} is out of range")
    need(config.get("sweeps", 0) >= 0, "'sweeps' is out of range")
    need(config.get("tolerance") is None or 0 < config["tolerance"] < 1, "'tolerance' is out of range")


def loretta_modes(width: int) -> list[int]:
    """Section "Modes"."""
    primes, divisor, left = [], 2, width
    while divisor * divisor <= left:
        while left % divisor == 0:
            primes.append(divisor)
            left //= divisor
        divisor += 1
    primes += [left] if left > 1 else []
    large, small = [p for p in primes if p > 16], [p for p in primes if p <= 16]
    x, d = math.prod(small), 1
    while x * x >= 8 ** (2 * d + 1):
        d += 1
    modes = [1] * min(d, len(small))
    for p in sorted(small, reverse=True):
        modes[modes.index(min(modes))] *= p
    return sorted(large + modes, reverse=True) or [1]


def loretta_middle(site: Site, rank: int, config: Config) -> int:
    """M, the rank of the bond in the middle."""
    most = rank
    if config.get("order") == "rep":
        most = min(rank * loretta_modes(width)[-1] for width in (site.out, site.width))
    return min(most, loretta_bound(site, config))


def loretta_bound(site: Site, config: Config) -> int:
    return min(site.out, site.width, config.get("lora_rank") or site.out)


def loretta_side(width: int, rank: int, middle: int) -> Side:
    """Sections "Bonds" and "Cores that are stored as one"."""
    k = loretta_modes(width)
    r = [1, *(min(rank, math.prod(k[:i]), middle * math.prod(k[i:])) for i in range(1, len(k))), middle]
    while len(k) > 1:
        saving = [
            (r[i] * k[i] + k[i + 1] * r[i + 2]) * r[i + 1] - r[i] * k[i] * k[i + 1] * r[i + 2]
            for i in range(len(k) - 1)
        ]
        i = saving.index(max(saving))
        if saving[i] < 0:
            break
        k[i : i + 2] = [k[i] * k[i + 1]]
        del r[i + 1]
    return Side(k, r)


def loretta_sides(site: Site, rank: int, config: Config) -> tuple[Side, Side]:
    middle = loretta_middle(site, rank, config)
    return loretta_side(site.out, rank, middle), loretta_side(site.width, rank, middle)


def loretta_specs(site: Site, rank: int, config: Config) -> list[Spec]:
    sides = loretta_sides(site, rank, config)
    return [
        Spec(r, before * k)
        for side in sides
        for before, k, r in zip(side.ranks, side.modes, side.ranks[1:], strict=False)
    ]


def loretta_most(site: Site, config: Config) -> int:
    """Section "Largest rank"."""
    middle = loretta_bound(site, config)
    most = middle
    for width in (site.out, site.width):
        k = loretta_modes(width)
        most = max([most, *(min(math.prod(k[:i]), middle * math.prod(k[i:])) for i in range(1, len(k)))])
    return most


def extended(X: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """A side with one core more."""
    core = c.reshape(len(c), X.shape[1], -1)
    longer: NDArray[np.float64] = np.einsum("qa,bax->qxb", X, core).reshape(-1, len(c))
    return longer


def loretta_factors(stored: Stored, name: str, site: Site, plan: Plan) -> tuple[Floats, Floats]:
    cores: list[NDArray[np.float64]] = []
    for g in stored[:-1]:
        norm = square_roots(g)
        cores.append(g / np.where(norm > 0, norm, 1.0)[:, None])
    cores.append((stored[-1].astype(np.float32) * plan.step).astype(np.float64))
    sides, left = [], iter(cores)
    for width in (site.out, site.width):
        X = extended(np.ones((1, 1)), next(left))
        while len(X) < width:
            X = extended(X, next(left))
        sides.append(X.astype(np.float32))
    return sides[1].T, sides[0]


LORETTA = Method(loretta_check, loretta_specs, loretta_most, loretta_factors, middle=loretta_middle)

# methods/loretta-adp.md


def adp_check(config: Config) -> None:
    nothing = type(None)
    types = {
        "bottleneck": (int,),
        "rank": (int, nothing),
        "layers": (str, nothing),
        "activation": (str,),
        "bias": (str,),
    }
    check_options(config, types)
    need(1 <= config.get("bottleneck", 16) <= 2**20, "'bottleneck' is out of range")
    need(config.get("rank") is None or config["rank"] >= 1, "'rank' is out of range")
    need(config.get("layers") is None or all(map(str.strip, config["layers"].split(","))), "'layers' has a blank part")
    need(config.get("activation", "gelu") in ("gelu", "relu", "tanh"), "'activation' is unknown")
    need(config.get("bias", "down") in ("none", "down", "both"), "'bias' is unknown")


def adp_chains(site: Site, config: Config) -> list[Site]:
    """The chains of down and up, as if they were updates."""
    b = config.get("bottleneck", 16)
    return [Site(b, site.out, "linear", ()), Site(site.out, b, "linear", ())]


def adp_specs(site: Site, rank: int, config: Config) -> list[Spec]:
    found = []
    for chain, biased in zip(adp_chains(site, config), (("down", "both"), ("both",)), strict=True):
        found += loretta_specs(chain, rank, {})
        if config.get("bias", "down") in biased:
            found.append(Spec(1, chain.out))
    return found


def adp_most(site: Site, config: Config) -> int:
    if site.out != site.width or site.layout != "linear":
        return 0
    return loretta_most(adp_chains(site, config)[0], {})


def adp_matrices(stored: Stored, name: str, site: Site, plan: Plan) -> tuple[Floats, Floats]:
    """down and up; the functions themselves are not computed here."""
    numbers = iter((tensor.astype(np.float32) * plan.step).astype(np.float64) for tensor in stored)
    found = []
    for chain, biased in zip(adp_chains(site, plan.config), (("down", "both"), ("both",)), strict=True):
        sides = []
        for width in (chain.out, chain.width):
            X = extended(np.ones((1, 1)), next(numbers))
            while len(X) < width:
                X = extended(X, next(numbers))
            sides.append(X)
        found.append((sides[0] @ sides[1].T).astype(np.float32))
        if plan.config.get("bias", "down") in biased:
            next(numbers)
    return found[0], found[1]


ADP = Method(
    adp_check,
    adp_specs,
    adp_most,
    adp_matrices,
    middle=lambda _, __, config: config.get("bottleneck", 16),
    linear=False,
)

# methods/unilora.md


def unilora_check(config: Config) -> None:
    check_options(config, {"numbers": (int, type(None)), "rank": (int,), "seed": (int,), "scale": (float,)})
    need(config.get("numbers") is None or config["numbers"] >= 1, "'numbers' is out of range")
    need(1 <= config.get("rank", 4) <= 4096, "'rank' is out of range")
    need(config.get("seed", 0) >= 0, "'seed' is out of range")
    scale = config.get("scale", 1.0)
    need(math.isfinite(scale) and scale > 0 and math.frexp(scale)[0] == 0.5, "'scale' is no power of two")


def unilora_shared(config: Config) -> list[Spec]:
    need(config.get("numbers") is not None, "an option is missing")
    return [Spec(1, config["numbers"])]


def unilora_factors(stored: Stored, name: str, site: Site, plan: Plan) -> tuple[Floats, Floats]:
    rank, scale = site.frame or plan.config.get("rank", 4), np.float32(plan.config.get("scale", 1.0))
    theta = plan.shared[0][0].astype(np.float32) * plan.step
    n, d = site.out * rank, len(theta)
    drawn = outputs((65536 * plan.config.get("seed", 0) + site.number) % 2**32)
    x = [next(drawn) for _ in range(n)]
    order = sorted(range(n), key=lambda k: x[k])
    entries = [theta[(order[k] + site.number * n) % d] * (-scale if x[k] % 2 else scale) for k in range(n)]
    B = np.array(entries, np.float32).reshape(site.out, rank)
    if site.frame:
        return plan.frames[name].T.astype(np.float32), B
    length = np.float32(1.0 / np.sqrt(np.float64(site.width)))
    signs = [-length if next(drawn) % 2 else length for _ in range(rank * site.width)]
    return np.array(signs, np.float32).reshape(rank, site.width), B


UNILORA = Method(
    unilora_check,
    lambda _, __, ___: [],
    lambda _, __: 1,
    unilora_factors,
    unilora_shared,
    lambda site, rank, config: rank * (site.frame or config.get("rank", 4)),
    frames=True,
)

METHODS = {
    "svd": SVD, "vblora": VBLORA, "lora-xs": CORE, "lora-sb": CORE, "loretta": LORETTA, "loretta-adp": ADP,
    "unilora": UNILORA,
}  # fmt: skip


# 8. Packed tensors ---------------------------------------------------------------------------------------------------

DTYPES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U8": 1, "U16": 2, "U32": 4, "U64": 8, "BOOL": 1,
}  # fmt: skip
"""Bytes of an element, in the order of the dtype codes of section 9."""
ROTATED = ("F64", "F32", "F16", "BF16")
NUMPY = {"F64": "f8", "F32": "f4", "F16": "f2", "BOOL": "?"}
EXPANSION = 65536


def unpack(entries: Sequence[Entry], payload: bytes) -> list[Tensor]:
    """The tensors of a block of packed tensors."""
    totals: dict[str, int] = {}
    for entry in entries:
        for group, count in parts(entry):
            totals[group] = totals.get(group, 0) + count
    size = sum(count * DTYPES[group] for group, count in totals.items())
    need(size <= EXPANSION * len(payload) + 2**20, "more tensors than so few bytes can hold")
    groups, position = {}, 0
    for group in sorted(totals):
        groups[group], position = unpack_group(group, totals[group], payload, position)
    need(position == len(payload), "bytes are left over")
    return [restore(entry, groups) for entry in entries]


def parts(entry: Entry) -> list[tuple[str, int]]:
    """The groups that hold an entry, with its number of elements in each."""
    count = math.prod(entry.shape)
    need(entry.dtype in DTYPES, f"unknown dtype {entry.dtype!r}")
    if entry.stored == "Q8":
        need(entry.dtype in ROTATED and len(entry.shape) >= 2 and count > 0, "a tensor cannot be kept as Q8")
        return [("F32", entry.shape[0]), ("I8", count)]
    rounded = entry.dtype in ROTATED and entry.stored in ("F16", "BF16")
    need(entry.stored == entry.dtype or rounded, f"{entry.dtype} cannot be kept as {entry.stored}")
    return [(entry.stored, count)]


def unpack_group(group: str, count: int, payload: bytes, position: int) -> tuple[NDArray[Any], int]:
    """The words of a group (unsigned, of the dtype's size), and the position behind it."""
    size = DTYPES[group]
    planes = np.zeros((count, size), dtype=np.uint8)
    for i in range(size - 1, -1, -1):
        need(len(payload) >= position + 9, "packed tensors are truncated")
        coding, length = struct.unpack_from("<BQ", payload, position)
        need(len(payload) - position - 9 >= length, "packed tensors are truncated")
        planes[:, i] = unpack_plane(coding, payload[position + 9 : position + 9 + length], count)
        position += 9 + length
    words: NDArray[Any] = planes.reshape(-1).view(f"<u{size}")
    if group in ROTATED:
        words = words >> words.dtype.type(1) | words << words.dtype.type(8 * size - 1)
    need(group != "BOOL" or not (words > 1).any(), "a BOOL is neither 0 nor 1")
    return words, position


def unpack_plane(coding: int, body: bytes, count: int) -> NDArray[np.uint8]:
    """One plane of `count` bytes."""
    if coding == 0:
        need(len(body) == count, "a plane is of the wrong length")
        return np.frombuffer(body, dtype=np.uint8)
    if coding == 1:
        try:
            need(zstandard.frame_content_size(body) == count, "a plane is of the wrong length")
            decompressor = zstandard.ZstdDecompressor()
            plain = decompressor.decompress(body, max_output_size=max(count, 1), allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Broken(f"a plane is damaged: {error}") from error
        need(len(plain) == count, "a plane is of the wrong length")
        return np.frombuffer(plain, dtype=np.uint8)
    need(coding == 2, f"unknown coding {coding}")
    need(len(body) >= 512 and len(body) % 4 == 0, "a plane is truncated")
    weights = struct.unpack("<256H", body[:512])
    need(any(weights), "a plane has no weights")
    coder, lefts = Ans(body[512:]), model(weights)
    plane = np.array([coder.symbol(lefts) for _ in range(count)], dtype=np.uint8)
    coder.finish()
    return plane


def restore(entry: Entry, groups: dict[str, NDArray[Any]]) -> Tensor:
    """Take an entry's words from its groups (which shrink) and turn them into its own dtype."""
    taken = []
    for group, count in parts(entry):
        taken.append(groups[group][:count])
        groups[group] = groups[group][count:]
    words = taken[0]
    if entry.stored != entry.dtype:
        need(not is_nan(words, "F32" if entry.stored == "Q8" else entry.stored), "a rounded tensor holds NaN")
    if entry.stored == "Q8":
        scale = words.view(np.float32)[:, None]
        need(bool(np.isfinite(scale).all()), "a scale is infinite")
        levels = taken[1].view(np.int8).astype(np.float32).reshape(entry.shape[0], -1)
        with np.errstate(over="ignore"):
            words = (levels * scale).reshape(-1).view(np.uint32)
        words = from_float32(words, entry.dtype)
    elif entry.stored != entry.dtype:
        words = from_float32(to_float32(words, entry.stored), entry.dtype)
    numpy_dtype = NUMPY.get(entry.dtype, f"i{DTYPES[entry.dtype]}" if entry.dtype[0] == "I" else words.dtype)
    return Tensor(entry.dtype, entry.shape, words.view(numpy_dtype).reshape(entry.shape))


def is_nan(words: NDArray[Any], dtype: str) -> bool:
    """Whether any of F32, F16 or BF16 words is NaN."""
    infinity = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}[dtype]
    return bool(((words & words.dtype.type(2 ** (8 * words.itemsize - 1) - 1)) > infinity).any())


def need_finite(tensor: Tensor) -> None:
    """Refuse a part of an update that is no tensor of finite numbers."""
    infinities = {"F64": 0x7FF << 52, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
    need(tensor.dtype in infinities, f"a part of an update is {tensor.dtype}")
    words = tensor.words.reshape(-1).view(f"u{DTYPES[tensor.dtype]}")
    infinity = words.dtype.type(infinities[tensor.dtype])
    need(not bool(((words & infinity) == infinity).any()), "a part of an update is not finite")


def to_float32(words: NDArray[Any], stored: str) -> NDArray[np.uint32]:
    """Words of F16 or BF16 as words of F32, exactly."""
    if stored == "BF16":
        return words.astype(np.uint32) << np.uint32(16)
    return words.view(np.float16).astype(np.float32).view(np.uint32)


def from_float32(words: NDArray[np.uint32], dtype: str) -> NDArray[Any]:
    """Words of F32 rounded to another dtype: to nearest, ties to even."""
    if dtype == "BF16":
        half = np.uint32(0x7FFF) + (words >> np.uint32(16) & np.uint32(1))
        return ((words + half) >> np.uint32(16)).astype(np.uint16)
    with np.errstate(over="ignore"):
        return words.view(np.float32).astype(NUMPY[dtype]).view(f"u{DTYPES[dtype]}")


# 9. Lossless files ---------------------------------------------------------------------------------------------------


def decode_exact(chunk: bytes, site: Site, first: Floats | None = None) -> Module:
    """A module's block in a lossless file; with what its A began with, the distance from that."""
    need(len(chunk) >= 16, "a block is truncated")
    scaling, rank, *codes = struct.unpack("<dIBBBB", chunk[:16])
    names = list(DTYPES)
    need(math.isfinite(scaling) and max(codes) < len(names), "a block has an impossible scaling or dtype")
    a, b, stored_a, stored_b = (names[code] for code in codes)
    need(first is None or (a in ROTATED and len(first) == rank), "a block is not of what its A began with")
    held = a if first is None else f"I{8 * DTYPES[a]}"
    entries = [
        Entry("factor", "A", held, (rank, site.width), stored_a),
        Entry("factor", "B", b, (site.out, rank), stored_b),
    ]
    A, B = unpack(entries, chunk[16:])
    if first is not None:
        A = Tensor(a, A.shape, moved_back(A.words, first, a))
    need_finite(A)
    need_finite(B)
    return Module(A, B, scaling)


def moved_back(words: NDArray[Any], first: Floats, dtype: str) -> NDArray[Any]:
    """Section 9: the words of A from its distance to what it began with."""
    bits = 8 * DTYPES[dtype]
    begun: NDArray[Any] = first.reshape(-1).view(np.uint32)
    if dtype == "F64":
        begun = first.reshape(-1).astype(np.float64).view(np.uint64)
    elif dtype != "F32":
        begun = from_float32(begun, dtype)
    top, full = 1 << bits - 1, (1 << bits) - 1
    found = []
    for code, word in zip(words.reshape(-1).tolist(), begun.tolist(), strict=True):
        order = word ^ (top - 1) if word & top else word
        order = (order + ((code & full) >> 1 ^ -(code & 1))) & full
        found.append(order ^ (top - 1) if order & top else order)
    return np.array(found, f"u{bits // 8}").reshape(words.shape)


def main(path: Path) -> None:
    """Print what a file holds."""
    decoded = decode(path.read_bytes())
    for name, module in decoded.modules.items():
        A, B = (factor.words if isinstance(factor, Tensor) else factor for factor in (module.A, module.B))
        print(f"module {name}: A {A.shape}, B {B.shape}, scaling {module.scaling:g}")
    for (role, name), tensor in decoded.extras.items():
        print(f"{role} {name}: {tensor.dtype} {tensor.shape}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
