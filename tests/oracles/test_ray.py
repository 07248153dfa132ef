"""A fleet on Ray's workers: the store that comes of it has the bytes of one that this process filled."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptzip.fleet.engines import Engine, fleet_engine
from adaptzip.fleet.jobs import build_fleet_basis, compress_fleet
from tests.cases.fleets import digests, make_fleet

pytestmark = pytest.mark.oracle
pytest.importorskip("ray")


def filled(folders: list[Path], store: Path, engine: Engine | None = None) -> dict[str, str]:
    build_fleet_basis(folders, store, size=12, share=0.99, engine=engine)
    compress_fleet(folders, store, max_error=0.2, share="always", engine=engine)
    return digests(store)


def test_two_workers_fill_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    folders = make_fleet(tmp_path / "fleet", 40)
    try:
        on_ray = filled(folders, tmp_path / "ray", fleet_engine("ray", jobs=2))
    finally:
        ray.shutdown()
    assert on_ray == filled(folders, tmp_path / "here")
