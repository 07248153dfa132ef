"""What llama.cpp makes of a base and an adapter in GGUF."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.cases.oracle_models import TOKENS


def likeliest(base: Path, adapter: Path | None = None, tokens: tuple[int, ...] = TOKENS) -> dict[int, float]:
    """The log-probabilities of the likeliest next tokens by llama.cpp.

    Raises:
        RuntimeError: if it does not load the files, with what it says.
    """
    words = [
        sys.executable,
        "-m",
        "tests.cases.ask_llamacpp",
        json.dumps(tokens),
        str(base),
        *([str(adapter)] if adapter else []),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return {int(token): value for token, value in json.loads(done.stdout.splitlines()[-1]).items()}
