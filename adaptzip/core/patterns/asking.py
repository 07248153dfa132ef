"""A process of its own for patterns that may take long: it can be ended, which a match in this one cannot."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

_ANSWERS = """
import functools, json, re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2 ** 30, 2 ** 30))
except (ImportError, OSError, ValueError):
    pass
compiled = functools.lru_cache(maxsize=512)(re.compile)
for line in sys.stdin:
    whole, pattern, text = json.loads(line)
    try:
        found = (compiled(pattern).fullmatch if whole else compiled(pattern).match)(text)
        said = None if found is None else [found.groupdict()]
    except Exception as error:
        said = type(error).__name__
    print(json.dumps(said), flush=True)
"""


class Helper:
    """The process, which is started when it is first asked. One asks at a time.

    It needs no more of the program than its interpreter, and ends when this process does.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._lines: SimpleQueue[str] = SimpleQueue()

    def ask(self, pattern: str, text: str, *, whole: bool, seconds: float) -> Any:
        """What `re` says: None, or a list of the named groups; the name of an error where it raises one.

        Raises:
            TimeoutError: if it has not said it in time; the process is ended.
        """
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([whole, pattern, text]) + "\n")
                process.stdin.flush()
                line = self._lines.get(timeout=max(seconds, 0.001))
            except Empty:
                self._end()
                raise TimeoutError from None
            except BaseException:
                # Whatever came between a question and its answer: the next answer must not be taken for it.
                self._end()
                raise
            if not line:
                self._end()
                return "MemoryError"
            return json.loads(line)

    def _running(self) -> subprocess.Popen[str]:
        # A process that was forked from this one has its pipes too: it takes a helper of its own.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            if self._owner == os.getpid():
                self._end()
            self._owner = os.getpid()
            self._lines = SimpleQueue()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _ANSWERS],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            threading.Thread(target=_pass_on, args=(self._process, self._lines), daemon=True).start()
            atexit.register(_end, self._process)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    atexit.unregister(_end)
    process.kill()
    assert process.stdin is not None
    with suppress(OSError):  # What was not written yet is for nobody.
        process.stdin.close()
    process.wait()


def _pass_on(process: subprocess.Popen[str], lines: SimpleQueue[str]) -> None:
    """Read what the process says, and at its end an empty line."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put("")
