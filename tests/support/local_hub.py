"""A Hugging Face hub on this machine: enough of its HTTP interface for the real client to fetch one repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def object_id(content: bytes) -> str:
    """A name for the content, as in git."""
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


class HubServer(ThreadingHTTPServer):
    """Serves `folder` as the repository `name`, and remembers the paths that were asked for."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.name = name
        self.folder = folder
        self.asked: list[str] = []


class HubHandler(BaseHTTPRequestHandler):
    """Answers as the hub does; repositories other than the server's are gated or missing, as their names say."""

    server: HubServer

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        self.server.asked.append(self.path)
        name, paths = self.server.name, sorted(self.server.folder.iterdir())
        if self.path.startswith(f"/api/models/{name}/revision/"):
            siblings = [{"rfilename": path.name} for path in paths]
            self.send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
        elif self.path.startswith(f"/api/models/{name}/tree/"):
            contents = [(path.name, path.read_bytes()) for path in paths]
            tree = [{"type": "file", "path": file, "size": len(c), "oid": object_id(c)} for file, c in contents]
            self.send(200, json.dumps(tree).encode())
        elif self.path.startswith(f"/{name}/resolve/"):
            self.send_file(*self.path.removeprefix(f"/{name}/resolve/").split("/", 1))
        elif "gated" in self.path:
            self.send(403, b"", "GatedRepo")
        else:
            self.send(401, b"", "RepoNotFound")

    def send_file(self, revision: str, file: str) -> None:
        if revision not in ("main", COMMIT):
            self.send(404, b"", "RevisionNotFound")
        elif (self.server.folder / file).is_file():
            self.send(200, (self.server.folder / file).read_bytes())
        else:
            self.send(404, b"", "EntryNotFound")

    def send(self, status: int, body: bytes, error: str | None = None) -> None:
        self.send_response(status)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{object_id(body)}"', "Content-Length": str(len(body))}
        if error is not None:
            headers["X-Error-Code"] = error
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def local_hub(name: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` as the repository `name`: (address, paths asked for so far)."""
    with HubServer(name, folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.asked
        finally:
            server.shutdown()
