"""One bank of vectors for a whole fleet: a single task, which goes through the adapters in their order."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from adaptzip.errors import RefusedError
from adaptzip.fitting.banks import build_bank
from adaptzip.fleet.grouping import parted
from adaptzip.fleet.runs import Json, Run, Stage
from adaptzip.fleet.scanning import failures_in, rows_of
from adaptzip.fleet.store.layout import artefact_named

STAGE = "bank"


def stage(run: Run) -> Stage:
    """Fit the bank, after `adaptzip.fleet.scanning`."""
    return Stage(STAGE, f"{__name__}:fit", [{}])


def fit(run: Run, payload: Json) -> Json:
    """Fit a bank to all adapters that can be read, but for a part of them, and put it into the store."""
    settings = run.plan.settings
    sound = [place for place, row in enumerate(rows_of(run)) if row.get("energies")]
    if not sound:
        raise RefusedError("no adapter could be read that changes anything", hint="give adapters that were trained")
    members, held_out = parted(sound, settings["hold_out"]) if len(sound) > 1 else (sound, [])
    paths = [run.plan.sources[place].path for place in members]
    sizes = {name: settings[name] for name in ("rank", "length", "vectors", "top_k", "memory")}
    with TemporaryDirectory(prefix="adaptzip-") as folder:
        path = Path(folder) / "new.bank"
        found = build_bank(paths, path, **sizes, seed=settings["seed"], base=settings["base"], device="cpu")
        content = path.read_bytes()
    file = artefact_named(found.reference.source, found.reference.hash)
    run.tree.write(file, content)
    shape = [] if found.bank is None else list(found.bank.vectors.shape)
    failed = {str(place): told for place, told in failures_in(run).items()}
    return {
        "artefact": file,
        "bytes": len(content),
        "shape": shape,
        "members": members,
        "held_out": held_out,
        "failed": failed,
    }
