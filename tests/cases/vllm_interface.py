"""vLLM's interface of resolvers: its own where it is installed, else classes with the same methods and arguments."""

from __future__ import annotations

import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Set
from dataclasses import dataclass
from types import ModuleType

import pytest

INSTALLED = importlib.util.find_spec("vllm") is not None


@dataclass
class LoRARequest:
    """What vLLM hands on to its engine, which may write another number into it."""

    lora_name: str
    lora_int_id: int
    lora_path: str


class LoRAResolver(ABC):
    """What vLLM asks for adapters that it does not know."""

    @abstractmethod
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None: ...


class Registry:
    """Resolvers by name."""

    def __init__(self) -> None:
        self.resolvers: dict[str, LoRAResolver] = {}

    def get_supported_resolvers(self) -> Set[str]:
        return self.resolvers.keys()

    def register_resolver(self, resolver_name: str, resolver: LoRAResolver) -> None:
        self.resolvers[resolver_name] = resolver

    def get_resolver(self, resolver_name: str) -> LoRAResolver:
        return self.resolvers[resolver_name]


def interface(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `vllm.lora.resolver`, with an empty registry."""
    if not INSTALLED:
        modules = {name: ModuleType(name) for name in ("vllm", "vllm.lora", "vllm.lora.request", "vllm.lora.resolver")}
        vars(modules["vllm.lora.request"])["LoRARequest"] = LoRARequest
        vars(modules["vllm.lora.resolver"]).update(LoRAResolver=LoRAResolver, LoRAResolverRegistry=Registry())
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
    found = importlib.import_module("vllm.lora.resolver")
    monkeypatch.setattr(found.LoRAResolverRegistry, "resolvers", {})
    return found
