"""Train a fleet: small adapters of two bases as PEFT folders, and a manifest that says what each has learnt.

Half are classifiers on all-MiniLM-L6-v2, half write like one slice of text on the 260k story model. They differ in
data, seed, start of A and rank. What is there already is not trained again.

    python -m benchmarks.fleet.train --out DIR [--count 256] [--material FOLDER]
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import adaptzip
from benchmarks import results
from benchmarks.fleet.gains import MANIFEST, Trained, manifest, score, task_of, write_manifest
from benchmarks.fleet.kinds import trained
from benchmarks.fleet.members import KINDS, Member, members


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    done = {row.member.name: row for row in manifest(options.out)} if (options.out / MANIFEST).exists() else {}
    for member in members(options.count):
        if member.name not in done:
            done[member.name] = train(member, options.out, options.material)
            write_manifest(options.out, list(done.values()))
            print(_line(done[member.name]), flush=True)
    return 0


def train(member: Member, fleet: Path, material: Path) -> Trained:
    """Train one member, write its folder, and score what was written."""
    kind, task = KINDS[member.kind], task_of(member.kind, member.task, material)
    begun = time.process_time()
    model = trained(kind, task, material, rank=member.rank, start=member.start, seed=member.seed)
    seconds = time.process_time() - begun
    folder = fleet / member.name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    before, after = (score(adapter, member, material) for adapter in (None, adaptzip.read(folder)))
    return Trained(member, kind.base, task.what, kind.scores, before, after, seconds)


def _line(row: Trained) -> str:
    return f"{row.member.name}  {row.before:.3f} -> {row.after:.3f}  {row.seconds:.1f} s  {row.what}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the fleet's folder")
    parser.add_argument("--count", type=int, default=256, help="how many (default: %(default)s)")
    parser.add_argument("--material", type=Path, default=results.MATERIAL)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
