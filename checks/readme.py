"""Run README's examples and put what they print below them: `python -m checks.readme`.

They run in a folder as README tells one to make it, with one of the fixtures as `my-adapter/` and its `base-model/`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.page import put
from fixtures.names import base_model_folder

README = Path(__file__).parent.parent / "README.md"
ADAPTER = Path(__file__).parent.parent / "fixtures" / "lists-minilm-r16"
EXAMPLES = (
    ("Compress to a twentieth:", "adaptzip compress my-adapter/ --budget 20x -o small.adz"),
    (
        "Check that it is what it says, against what it was made from:",
        "adaptzip verify small.adz --against my-adapter/",
    ),
    ("A LoRA again, for whatever loads PEFT's:", "adaptzip export small.adz --as peft -o restored/"),
    ("Part of its base model:", "adaptzip merge small.adz --base base-model/ -o merged/"),
    (
        "A VB-LoRA of 50,000 numbers, held against `svd` at the same bytes:",
        "adaptzip compress my-adapter/ --to vblora --params 50k -o vblora.adz",
    ),
)
"""What each is for, and the command, in an order that they can be typed in."""


def main() -> int:
    """Run them and write README."""
    put("examples", examples(), README)
    print(f"wrote {README.name}")
    return 0


def examples() -> str:
    """The examples as README has them."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ADAPTER, folder / "my-adapter")
        shutil.copytree(base_model_folder(), folder / "base-model")
        return "\n\n".join(
            f"{told}\n\n```console\n$ {command}\n{_output(command, folder)}\n```" for told, command in EXAMPLES
        )


def _output(command: str, folder: Path) -> str:
    """What a command prints when it is typed in a folder.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    _, *words = shlex.split(command)
    done = subprocess.run(
        [Path(sys.executable).with_name("adaptzip"), *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout.rstrip()


if __name__ == "__main__":
    sys.exit(main())
