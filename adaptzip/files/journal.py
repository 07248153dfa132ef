"""A note of the finished parts of what is being made, by which a run that was stopped is resumed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DONE = "done"
"""The note's name in a draft."""
_LARGEST = 1 << 24


@dataclass(frozen=True)
class Journal:
    """The note in a file: a line for each finished part, under the key of the run.

    Attributes:
        path: the file, which the first part makes.
        key: tells runs that make the same; the parts of another run are not seen.
    """

    path: Path
    key: str

    @classmethod
    def beside(cls, new: Path, key: str) -> Journal:
        """The note on what is made as the folder `new` of a draft."""
        return cls(new.with_name(DONE), key)

    def parts(self) -> Mapping[str, Mapping[str, Any]]:
        """What was noted of each finished part of this run, by its name."""
        return {value["part"]: value for value in self.every_part() if value["key"] == self.key}

    def every_part(self) -> Iterator[Mapping[str, Any]]:
        """What was noted of each finished part of any run, in its order; a line that is cut off is passed over."""
        try:
            about = self.path.lstat()
            is_note = stat.S_ISREG(about.st_mode) and about.st_size <= _LARGEST
            text = self.path.read_text(encoding="utf-8", errors="replace") if is_note else ""
        except OSError:
            return
        for line in text.splitlines():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict) and isinstance(value.get("part"), str) and "key" in value:
                yield value

    def note(self, part: str, **what: Any) -> None:
        """Note that a part, which is durable already, is finished; durable in its turn on return.

        Raises:
            OSError: if it cannot be written.
        """
        line = json.dumps({"key": self.key, "part": part, **what})
        with self.path.open("a", encoding="utf-8") as handle:
            # A line that a killed run left unfinished ends here.
            handle.write(f"\n{line}\n")
            handle.flush()
            os.fsync(handle.fileno())
