"""`python -m adaptzip.cli`, for where the program itself is not on the path."""

from __future__ import annotations

import sys

from adaptzip.cli.app import main

sys.exit(main())
