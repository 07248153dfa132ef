"""The story model with a tokeniser that transformers reads, made of the vocabulary that llama2.c has for it."""

from __future__ import annotations

import atexit
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

_SPECIALS = ("<unk>", "<s>", "</s>")
_BLANK = "\u2581"


def stories_base(material: Path) -> Path:
    """A folder with the story model that is there until the program ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    return story_model(material, folder)


def story_model(material: Path, folder: Path) -> Path:
    """A folder with the story model, its files as links, and its tokeniser.

    Args:
        folder: an empty folder.
    """
    home = material / "models" / "stories260k"
    for file in (home / "hf").iterdir():
        (folder / file.name).symlink_to(file.resolve())
    # Texts stand one after another in what the model was trained on, each after an <s>.
    tokeniser = PreTrainedTokenizerFast(
        tokenizer_object=_tokeniser(list(_pieces((home / "tok512.bin").read_bytes()))),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="<s>",
    )
    tokeniser.save_pretrained(folder)
    return folder


def _pieces(data: bytes) -> Iterator[tuple[str, float]]:
    """Tokens and their scores: the longest length, then score, length and bytes of every token."""
    at = 4
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        at += 8 + length
        yield data[at - length : at].decode(), score


def _tokeniser(pieces: list[tuple[str, float]]) -> Tokenizer:
    """Byte pair encoding that joins the neighbours whose union scores highest; a blank comes before each text."""
    first_bytes = len(_SPECIALS)
    names = [*_SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [piece.replace(" ", _BLANK) for piece, _ in pieces[len(names) :]]
    ids = {name: place for place, name in enumerate(names)}
    joined = [place for place in range(first_bytes + 256, len(names)) if len(names[place]) > 1]
    merges = [
        (names[place][:cut], names[place][cut:])
        for place in sorted(joined, key=lambda place: -pieces[place][1])
        for cut in range(1, len(names[place]))
        if names[place][:cut] in ids and names[place][cut:] in ids
    ]
    made = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), normalizers.Replace(" ", _BLANK)])
    made.decoder = decoders.Sequence(
        [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", ids["<s>"])])
    return made
