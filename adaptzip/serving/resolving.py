"""From the name in a request to a folder that an engine loads, whichever engine asks."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from adaptzip.errors import AdaptzipError, UsageError
from adaptzip.files.trees import Tree
from adaptzip.fleet.store.access import fetch
from adaptzip.fleet.store.layout import adapter_file
from adaptzip.serving.unpacking import Folders, key_of

_LOG = logging.getLogger(__name__)
_LONGEST = 1024
"""Characters of a name that is looked for."""


@dataclass(frozen=True)
class Served:
    """An adapter as an engine loads it.

    Attributes:
        path: the folder, which is never changed.
        number: tells this folder from others, the same in every process: 1 to 2^31 - 1.
        base: what the adapter calls its base model, or None.
    """

    path: Path
    number: int
    base: str | None


class Resolver:
    """Finds adapters of a store by name; remembers which file had which content, and what it has said already.

    Args:
        tree: the store.
        folders: where adapters are unpacked.
    """

    def __init__(self, tree: Tree, folders: Folders) -> None:
        self._tree, self._folders = tree, folders
        self._known: dict[str, tuple[str, str, Served]] = {}
        """By name: the file's state, the folder's name, and what was served."""
        self._running: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Task[Served | None]] = {}
        self._said: set[str] = set()

    async def find(self, name: str, model: str | None = None) -> Served | None:
        """The adapter of a name, for the next resolver to try where it is None: the store has none, or a damaged one.

        Requests for one name at one time share the work.

        Args:
            model: what the engine calls the base model; an adapter that names another is told of once, and served.
        """
        loop = asyncio.get_running_loop()
        task = self._running.get((loop, name))
        if task is None:
            task = loop.create_task(asyncio.to_thread(self.get, name, model))
            self._running[loop, name] = task
            task.add_done_callback(lambda _: self._running.pop((loop, name)))
        # One request that is given up leaves the others theirs.
        return await asyncio.shield(task)

    def get(self, name: str, model: str | None = None) -> Served | None:
        """As `find`, for whoever waits in a thread of their own."""
        try:
            file = adapter_file(name) if len(name) <= _LONGEST else None
        except UsageError:
            file = None
        if file is None:
            return None
        try:
            return self._served(name, file, model)
        except (AdaptzipError, OSError) as error:
            self._say(f"{name}: {error}")
            return None

    def _served(self, name: str, file: str, model: str | None) -> Served | None:
        state = self._tree.state(file)
        if state is None:
            self._known.pop(name, None)
            return None
        before, key, served = self._known.get(name, ("", "", None))
        if served is not None and before == state and self._folders.again(key):
            return served
        fetched = fetch(self._tree, name)
        key, base = key_of(fetched), fetched.compressed.meta.base_model
        served = Served(self._folders.get(self._tree, fetched, model), number_of(key), base)
        self._known[name] = (state, key, served)
        if model is not None and base is not None and base != model:
            self._say(f"{name}: was trained on {base}, and {model} is served")
        return served

    def _say(self, message: str) -> None:
        """Log a line, once."""
        if message not in self._said:
            self._said.add(message)
            _LOG.warning("%s", " ".join(message.split()))


def number_of(key: str) -> int:
    """A number for a folder, the same in every process: 1 to 2^31 - 1."""
    return 1 + int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % (2**31 - 1)
