"""Ctrl-C and SIGTERM end a command through all of its clean-ups, so that nothing is left half-written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN_AFTER = 0.02
"""Seconds until a signal that came during an import is raised again."""


class Terminated(BaseException):
    """SIGTERM, as an exception that no other code catches."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into exceptions; a signal that is ignored already, as under nohup, stays ignored.

    Signals belong to the main thread alone, so that this does nothing in another one.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    mine = threading.current_thread() is threading.main_thread()
    wanted = [number for number in numbers if mine and before[number] is not signal.SIG_IGN]
    try:
        for number in wanted:
            signal.signal(number, _stop)
        yield
    finally:
        for number in wanted:
            signal.signal(number, before[number])


def _stop(number: int, frame: FrameType | None) -> None:
    if _importing(frame):
        # Large packages swallow exceptions while they are imported, and the command would go on.
        timer = threading.Timer(_AGAIN_AFTER, _raise_in_main_thread, [number])
        timer.daemon = True
        timer.start()
        return
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _raise_in_main_thread(number: int) -> None:
    """Where the system can, wake the main thread too; a signal that another thread gets interrupts no wait."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
