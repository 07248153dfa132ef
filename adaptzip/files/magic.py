"""What a file is by its first bytes."""

from __future__ import annotations

from pathlib import Path

from adaptzip.errors import CheckpointError

HEADER_LIMIT = 100_000_000
"""Bytes of the longest header that a safetensors file may have."""

_AGAIN = "download or save it again"
_BOM = b"\xef\xbb\xbf"
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!": "RAR",
}


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins with these bytes, 9 or more, may be safetensors: a header's length and its brace.

    The length may be any number, so it may begin as the mark of another kind of file does.
    """
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= HEADER_LIMIT


def is_pytorch(start: bytes) -> bool:
    """Whether a file that begins with these bytes is a zip archive or a pickle, as PyTorch's files are."""
    pickled = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return (pickled or start.startswith(b"PK")) and not is_safetensors(start)


def refuse_others(path: Path, start: bytes) -> None:
    """Refuse what is no weight file by its first bytes, naming what it is.

    Raises:
        CheckpointError: for an empty file, a pointer to a file elsewhere, a web page, and the like.
    """
    if not start:
        raise CheckpointError(f"{path}: the file is empty", hint=_AGAIN)
    refuse_pointers(path, start)
    text = start.removeprefix(_BOM).lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(f"{path}: is a web page, not an adapter", hint=_AGAIN)
    if start.startswith(b"GGUF"):
        raise CheckpointError(f"{path}: is a GGUF file", hint="give the PEFT adapter that it was made from")
    packed = next((name for magic, name in _PACKED.items() if start.startswith(magic)), None)
    if packed is not None:
        raise CheckpointError(f"{path}: is packed with {packed}", hint="unpack it first")
    if path.suffix == ".json":
        raise CheckpointError(f"{path}: is a JSON file, not weights", hint="give the folder that it lies in")


def refuse_pointers(path: Path, start: bytes) -> None:
    """Refuse a file that only says where the real one is.

    Raises:
        CheckpointError: for a pointer of git-LFS or git-annex.
    """
    text = start.removeprefix(_BOM).lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path}: is a git-LFS pointer, not the file itself", hint="run `git lfs pull` in its repository"
        )
    if b"annex/objects/" in text[:64]:
        raise CheckpointError(
            f"{path}: is a git-annex pointer, not the file itself", hint="run `git annex get` in its repository"
        )
