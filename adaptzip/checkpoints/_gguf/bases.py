"""A base model in GGUF as config.json would describe it, as far as an adapter's file leaves that to the base."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from adaptzip.checkpoints._gguf.architectures import BY_MODEL_TYPE
from adaptzip.checkpoints._gguf.header import MAGIC, Header, read_header
from adaptzip.errors import CheckpointError
from adaptzip.files.regular import open_regular

SUFFIX = ".gguf"
ARCHITECTURE = "general.architecture"


def is_gguf(path: str | Path) -> bool:
    """Whether a path is that of a GGUF file, by its name or by how it begins."""
    path = Path(path)
    return not path.is_dir() and (path.suffix.lower() == SUFFIX or begins_so(path))


def begins_so(path: Path) -> bool:
    """Whether a file begins as GGUF does."""
    try:
        with open_regular(path) as handle:
            return handle.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def header_of(path: Path) -> Header:
    """The header of a file.

    Raises:
        CheckpointError: if it is no GGUF file, malformed or truncated.
        OSError: if the system cannot read it.
    """
    if not begins_so(path):
        path.stat()
        raise CheckpointError(f"{path}: is no GGUF file, which begins with GGUF", hint="download it again")
    with open_regular(path) as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return read_header(path, data)


def config_of(header: Header) -> dict[str, Any]:
    """What config.json would say of the model's type and heads; of what the header does not tell it has nothing."""
    name = header.text(ARCHITECTURE) or ""
    kind = next((kind for kind, known in BY_MODEL_TYPE.items() if known.name == name), name)
    told = {
        "num_attention_heads": "attention.head_count",
        "num_key_value_heads": "attention.head_count_kv",
        "num_hidden_layers": "block_count",
        "hidden_size": "embedding_length",
        "head_dim": "attention.key_length",
    }
    found = {field: header.text(f"{name}.{key}") for field, key in told.items()}
    numbers = {field: int(text) for field, text in found.items() if text and text.isdecimal() and len(text) < 10}
    tied = not any(entry.key == "output.weight" for entry in header.entries)
    return {"model_type": kind, **numbers, "tie_word_embeddings": tied}
