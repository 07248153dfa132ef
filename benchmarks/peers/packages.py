"""The peers that are packages, their exact versions, and what they are."""

from __future__ import annotations

from dataclasses import dataclass

TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Package:
    """A peer with an environment of its own.

    Attributes:
        driver: the module of `benchmarks.peers.drivers` that runs in it.
        requirements: what is installed, with exact versions; the first is the peer itself.
        built: of these, what has no wheel and is built.
        counted: which of its bytes count.
    """

    name: str
    driver: str
    requirements: tuple[str, ...]
    what: str
    counted: str
    built: tuple[str, ...] = ()

    @property
    def version(self) -> str:
        return self.requirements[0].partition("==")[2]


NNCODEC = Package(
    "NNCodec",
    "run_nncodec",
    ("nncodec==2.1.3", TORCH, "torchvision==0.28.0"),
    "reference software of ISO/IEC 15938-17: dependent quantisation and DeepCABAC",
    "the stream; A and B of all modules stacked, without their names",
    built=("nncodec",),
)
ENTROPACK = Package(
    "EntroPack",
    "run_entropack",
    ("entropack==0.1.5", TORCH),
    "E8 lattice and rANS",
    "what it stores; A and B of all modules stacked, without their names",
)
BITSANDBYTES = Package(
    "bitsandbytes",
    "run_nf4",
    ("bitsandbytes==0.50.2", TORCH),
    "NF4 in blocks of 64, as in QLoRA",
    "codes and scales",
)
ZIPNN = Package(
    "ZipNN",
    "run_zipnn",
    ("zipnn==0.5.4", TORCH),
    "lossless: planes of bytes and Huffman codes",
    "what it writes of the numbers alone",
    built=("zipnn",),
)
PEFT = Package(
    "PEFT",
    "run_peft",
    ("peft==0.21.2", TORCH),
    "`save_as_lora`: one lower rank for all modules",
    "the numbers, as float16",
)
VLORA = Package(
    "vlora-dev",
    "run_vlora",
    ("vlora-dev==1.0.0", TORCH),
    "principal components of several adapters, float32 or NF4",
    "all files",
)
LORASHARE = Package(
    "lorashare",
    "run_lorashare",
    ("lorashare==0.1.3", TORCH),
    "principal components of several adapters",
    "all files",
)
PACKAGES = (NNCODEC, ENTROPACK, BITSANDBYTES, ZIPNN, PEFT, VLORA, LORASHARE)
