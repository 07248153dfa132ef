"""What a pickle would do, told from its opcodes without doing it."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAGIC = 0x1950A86A20F9469CFC6C
"""The number that PyTorch's files before version 1.6 begin with, a pickle of its own."""

# What tables of tensors are made of.
_OF_TENSORS = ("torch._utils._rebuild_", "torch._tensor._rebuild_", "torch.storage.", "collections.OrderedDict")
_OF_NUMPY = ("numpy.", "_codecs.encode")
_OF_MODELS = ("torch.nn.", "transformers.", "peft.", "diffusers.", "accelerate.", "builtins.set", "__builtin__.set")
_NETWORKS = ("torch.nn.modules.", "torch.nn.parallel.", ".modeling_", "peft.peft_model.")
_STRINGS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING")
_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")


@dataclass(frozen=True)
class Opcodes:
    """What is known of one pickle.

    Attributes:
        globals: the classes and functions that it names, such as "collections.OrderedDict".
        numbers: the whole numbers in it.
        whole: whether it has its end.
        damaged: whether something in it is no opcode.
    """

    globals: tuple[str, ...]
    numbers: frozenset[int]
    whole: bool
    damaged: bool = False


def scan(handle: BinaryIO) -> Opcodes:
    """Read one pickle's opcodes, up to its end, where the handle stays."""
    names: list[str] = []
    numbers: set[int] = set()
    strings: list[str] = []
    memo: dict[int, str] = {}
    last = ""
    try:
        for name, argument in _opcodes(handle):
            if name in _STRINGS:
                last = str(argument)
                strings.append(last)
            elif name in _PUTS or name == "MEMOIZE":
                memo[len(memo) if name == "MEMOIZE" else int(str(argument))] = last
            elif name in _GETS:
                strings.append(memo.get(int(str(argument)), ""))
            elif name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", "."))
            elif isinstance(argument, int):
                numbers.add(argument)
    except (ValueError, EOFError) as error:
        unknown = "opcode" in str(error) and "unknown" in str(error)
        return Opcodes(tuple(dict.fromkeys(names)), frozenset(numbers), whole=False, damaged=unknown)
    return Opcodes(tuple(dict.fromkeys(names)), frozenset(numbers), whole=True)


def _opcodes(handle: BinaryIO) -> Iterator[tuple[str, object]]:
    for opcode, argument, _ in pickletools.genops(handle):
        yield opcode.name, argument


def contents(names: tuple[str, ...]) -> tuple[str, str] | None:
    """What a pickle holds that is no table of tensors, and what to do about it; None for nothing such."""
    others = [name for name in names if not _of_tensors(name)]
    if not others:
        return None
    if all(name.startswith(_OF_NUMPY) for name in others):
        return "holds numpy arrays, expected torch tensors", "turn them into tensors and save those as safetensors"
    arguments = next((name for name in others if name.endswith("TrainingArguments")), None)
    if arguments is not None and all(name.startswith(_OF_MODELS) for name in others):
        return (
            f"holds a trainer's arguments ({arguments})",
            "give the folder that it lies in, or its adapter_model file",
        )
    model = next((name for name in others if any(part in name for part in _NETWORKS)), None)
    if model is not None and all(name.startswith(_OF_MODELS) for name in others):
        return (
            f"holds a whole model object ({model}), expected a table of tensors",
            "load it where you trust it and save its state_dict() as safetensors",
        )
    strangest = next((name for name in others if not name.startswith((*_OF_MODELS, *_OF_NUMPY))), others[0])
    return (
        f"holds more than tensors ({strangest}), and loading it could run code",
        "load it where you trust it and save its tensors as safetensors",
    )


def _of_tensors(name: str) -> bool:
    plain = name.count(".") == 1 and name.startswith("torch.") and (name.endswith("Storage") or name.islower())
    return name.startswith(_OF_TENSORS) or plain or name in ("torch.nn.parameter.Parameter", "torch.Size")
