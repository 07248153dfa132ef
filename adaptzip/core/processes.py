"""What processes that work on several files at once do before anything else."""

from __future__ import annotations

import os
import signal
from threading import Thread


def share(jobs: int) -> None:
    """Leave the other processes their share of the cores, and the words about a Ctrl-C to the one that was typed to,
    without which none goes on.
    """
    import torch

    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):  # Not on Windows.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, so that a next run finds nobody at work."""
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
