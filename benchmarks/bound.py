"""The Gaussian rate-distortion bound of an adapter (`adaptzip.reports.bounds`) at some relative errors.

python -m benchmarks.bound ADAPTER [RELATIVE_ERROR ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import adaptzip
from adaptzip.fitting.requests import Request
from adaptzip.fitting.starting import known_frames
from adaptzip.reports.bounds import components, least_bytes

ERRORS = (0.1, 0.2, 0.316)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("errors", type=float, nargs="*", default=ERRORS, metavar="RELATIVE_ERROR")
    options = parser.parse_args()
    adapter = adaptzip.read(options.adapter)
    frames = known_frames(options.adapter, adapter, Request())
    parts = components(adapter, frames)
    for error in options.errors:
        known = "" if frames is None else f", {least_bytes(parts, error):.0f} where the start is known"
        print(f"relative error {error:g}: {least_bytes(parts.unknown, error):.0f} bytes{known}")


if __name__ == "__main__":
    main()
