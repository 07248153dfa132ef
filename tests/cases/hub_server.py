"""A Hub of one's own: the few answers that huggingface_hub and datasets ask for, and a cache as it leaves one."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Files = Mapping[str, bytes]


_REPOSITORY = 4
"""Parts that a path to a repository has."""


class _Handler(BaseHTTPRequestHandler):
    """Serves `repositories`, of which `gated` are for nobody."""

    def __init__(self, repositories: Mapping[str, Files], asked: list[str], *arguments: object) -> None:
        self.repositories, self.asked = repositories, asked
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path.strip("/")
        self.asked.append(path)
        parts = _parts(path)
        if len(parts) < _REPOSITORY:
            # Such as what clients send to count uses.
            return self._refuse(404, "EntryNotFound")
        api, kind, owner, name, *rest = parts
        files = self.repositories.get(f"{kind}{owner}/{name}")
        if files is None:
            return self._refuse(401, "RepoNotFound")
        if owner == "gated" and not (api and rest[:1] == []):
            return self._refuse(403, "GatedRepo")
        if rest[1:2] and rest[1] not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if api and rest[:1] == ["tree"]:
            whole = "recursive=true" in urlsplit(self.path).query.casefold()
            return self._send(json.dumps(_tree(files, "/".join([*rest[2:], ""]), whole=whole)).encode())
        if api:
            told = {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
            return self._send(json.dumps(told).encode())
        data = files.get("/".join(rest[2:]))
        if data is None:
            return self._refuse(404, "EntryNotFound")
        return self._send(data, {"ETag": f'"{_digest(data)}"', "X-Repo-Commit": COMMIT})

    def _send(self, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.command == "GET" else None
        told = dict(headers or {})
        if wanted is not None:
            first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            told["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data = data[first : last + 1]
        self.send_response(200 if wanted is None else 206)
        for key, value in {"Content-Length": str(len(data)), **told}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _refuse(self, code: int, kind: str) -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", kind)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _parts(path: str) -> tuple[str, ...]:
    """Whether the path is one of the API, "datasets/" or nothing for a model, owner, name, and what follows."""
    plain = path.removeprefix("api/").removeprefix("models/")
    kind = "datasets/" if plain.startswith("datasets/") else ""
    return "api" if path.startswith("api/") else "", kind, *plain.removeprefix(kind).split("/")


def _tree(files: Files, folder: str, *, whole: bool) -> list[dict[str, object]]:
    """What lies in a folder, or with `whole` anywhere below it."""
    below = {name: data for name, data in files.items() if name.startswith(folder.lstrip("/"))}
    within = {name: name.removeprefix(folder).partition("/")[0] for name in below}
    found: list[dict[str, object]] = [
        {"type": "file", "path": name, "size": len(data), "oid": _digest(data)[:40]}
        for name, data in below.items()
        if whole or within[name] == name.removeprefix(folder)
    ]
    folders = {f"{folder.lstrip('/')}{part}" for name, part in within.items() if f"{folder.lstrip('/')}{part}" != name}
    return found + [{"type": "directory", "path": name, "oid": "0" * 40} for name in sorted(folders)]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def serving(repositories: Mapping[str, Files], monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let huggingface_hub ask a server on this machine; gives what it was asked for."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, repositories, asked))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }.items():  # fmt: skip
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


def cached(cache: Path, repository: str, files: Files) -> Path:
    """A snapshot of a repository in a cache, all of links; returns its folder."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for folder in (root / "blobs", root / "refs", snapshot):
        folder.mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for name, data in files.items():
        (root / "blobs" / _digest(data)).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{_digest(data)}")
    return snapshot
