"""`python -m adaptzip`, for where the program itself is not on the path."""

from __future__ import annotations

import sys

from adaptzip.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
