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


@contextmanager
def local_hub(name: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` as the repository `name`: (address, paths asked for). Others are gated or missing, as their
    names say."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def log_message(self, *_: object) -> None:
            pass

        def answer(self) -> None:
            asked.append(self.path)
            api, files = f"/api/models/{name}/revision/", f"/{name}/resolve/"
            if self.path.startswith(api):
                siblings = [{"rfilename": path.name} for path in sorted(folder.iterdir())]
                self.send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
            elif self.path.startswith(f"/api/models/{name}/tree/"):
                entries = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
                tree = [
                    {"type": "file", "path": file, "size": len(content), "oid": object_id(content)}
                    for file, content in entries
                ]
                self.send(200, json.dumps(tree).encode())
            elif self.path.startswith(files):
                revision, _, file = self.path.removeprefix(files).partition("/")
                if revision not in ("main", COMMIT):
                    self.send(404, b"", **{"X-Error-Code": "RevisionNotFound"})
                elif (folder / file).is_file():
                    self.send(200, (folder / file).read_bytes())
                else:
                    self.send(404, b"", **{"X-Error-Code": "EntryNotFound"})
            elif "gated" in self.path:
                self.send(403, b"", **{"X-Error-Code": "GatedRepo"})
            else:
                self.send(401, b"", **{"X-Error-Code": "RepoNotFound"})

        def send(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            extra = {
                "X-Repo-Commit": COMMIT,
                "ETag": f'"{object_id(body)}"',
                "Content-Length": str(len(body)),
                **headers,
            }
            for key, value in extra.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
