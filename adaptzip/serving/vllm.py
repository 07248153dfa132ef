"""A plug-in of vLLM: a request for the model `name` is answered with the adapter `name` of a store.

vLLM calls `register` in each of its processes, and asks the resolver in the one that takes requests. Without
`ADAPTZIP_STORE` nothing is imported and nothing done.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptzip.serving.resolving import Resolver

STORE = "ADAPTZIP_STORE"
"""Names the store: a folder, or a bucket, as `s3://bucket/store` or `hf://owner/name`."""
CACHE = "ADAPTZIP_STORE_CACHE"
"""Names the folder in which adapters are unpacked; without it one in the user's cache."""
LIMIT = "ADAPTZIP_STORE_LIMIT"
"""Bytes that they may take there together, such as 50GiB."""
NAME = "adaptzip"
"""What the resolver is called."""
_USUAL = "20GiB"


def register() -> None:
    """Let vLLM find adapters in the store that `ADAPTZIP_STORE` names; done once, however often it is called.

    Raises:
        UsageError: if the store, or the limit of the cache, is none.
    """
    location = os.environ.get(STORE)
    if not location:
        return
    from vllm.lora.resolver import LoRAResolverRegistry

    if NAME not in LoRAResolverRegistry.get_supported_resolvers():
        LoRAResolverRegistry.register_resolver(NAME, _for_vllm(resolver_at(location)))


def resolver_at(location: str) -> Resolver:
    """The resolver of a store, with the cache that the environment names.

    Raises:
        UsageError: if the store, or the limit of the cache, is none.
    """
    from adaptzip.core.budget import Budget
    from adaptzip.files.trees import tree_at
    from adaptzip.serving.places import cache_at
    from adaptzip.serving.resolving import Resolver
    from adaptzip.serving.unpacking import Folders

    limit = Budget.parse(os.environ.get(LIMIT) or _USUAL, "bytes")
    # The program may go to another folder later.
    place = location if "://" in location else Path(location).expanduser().absolute()
    return Resolver(tree_at(place), Folders(cache_at(os.environ.get(CACHE)), int(limit.amount)))


def _for_vllm(resolver: Resolver) -> Any:
    """The resolver as vLLM's own class has it."""
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver

    class StoreResolver(LoRAResolver):  # type: ignore[misc]
        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            found = await resolver.find(lora_name, base_model_name)
            if found is None:
                return None
            return LoRARequest(lora_name=lora_name, lora_int_id=found.number, lora_path=str(found.path))

    return StoreResolver()
