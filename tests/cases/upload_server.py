"""A Hub that takes uploads: the answers that huggingface_hub asks for to make a repository and commit a folder."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
Repositories = dict[str, dict[str, bytes]]


class _Handler(BaseHTTPRequestHandler):
    """Keeps what is committed to `repositories`; those of the owner "others" are refused."""

    def __init__(self, repositories: Repositories, *arguments: object) -> None:
        self.repositories = repositories
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        body = self._body()
        if path == "api/validate-yaml":
            return self._send({"errors": [], "warnings": []})
        if path == "api/repos/create":
            return self._create(json.loads(body))
        name = "/".join(path.removeprefix("api/models/").split("/")[:2])
        if "/preupload/" in path:
            asked = [file["path"] for file in json.loads(body)["files"]]
            how = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self._send({"files": [{"path": file, **how} for file in asked]})
        if "/commit/" in path:
            for told in map(json.loads, filter(None, body.splitlines())):
                if told["key"] == "file":
                    self.repositories[name][told["value"]["path"]] = base64.b64decode(told["value"]["content"])
            return self._send(
                {"success": True, "commitUrl": f"{self._root}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
            )
        return self._send({"error": f"unexpected {path}"}, 404)

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        name = "/".join(path.removeprefix("api/models/").split("/")[:2])
        if name not in self.repositories:
            return self._send({"error": "Repository Not Found"}, 404)
        files = [{"rfilename": file} for file in self.repositories[name]]
        return self._send({"_id": "0" * 24, "id": name, "modelId": name, "sha": COMMIT, "siblings": files, "tags": []})

    @property
    def _root(self) -> str:
        return f"http://{self.headers['Host']}"

    def _create(self, told: dict[str, str]) -> None:
        name = f"{told.get('organization') or 'me'}/{told['name']}"
        if name.startswith("others/"):
            return self._send({"error": "You don't have the rights to create a model there"}, 403)
        code = 409 if name in self.repositories else 200
        self.repositories.setdefault(name, {})
        return self._send({"url": f"{self._root}/{name}", "name": name, "id": name}, code)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        found = b""
        while size := int(self.rfile.readline().strip() or b"0", 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _send(self, told: object, code: int = 200) -> None:
        data = json.dumps(told).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def taking_uploads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repositories]:
    """Let huggingface_hub upload to a server on this machine; gives what was uploaded."""
    repositories: Repositories = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, repositories))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    for name, value in {"ENDPOINT": address, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    try:
        yield repositories
    finally:
        server.shutdown()
        server.server_close()
