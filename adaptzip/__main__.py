"""`python -m adaptzip`, and the program itself, which can be interrupted while it is being imported."""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def main() -> int:
    """Run the command line and return the exit code."""
    try:
        from adaptzip.cli.app import main as run
    except KeyboardInterrupt:
        return _INTERRUPTED
    return run()


if __name__ == "__main__":
    sys.exit(main())
