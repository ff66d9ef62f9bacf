"""A Hugging Face hub of our own: enough of its HTTP interface for the real client to fetch repositories.

It needs nothing but Python, so that it also runs in a pod: `python local_hub.py FOLDER PORT REPOSITORIES`, where the
last is JSON such as {"org/small": "", "org/private": "the token that opens it"}.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)
PIECE = 1 << 16  # bytes that are sent at once
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Repository:
    """The files of a folder, with a token that opens them; an empty one: everybody may read."""

    def __init__(self, folder: Path, token: str = "") -> None:
        self.folder, self.token = folder, token

    @cached_property
    def files(self) -> dict[str, tuple[int, str]]:
        """Name -> size and the name of its content, as in git."""
        return {path.name: describe(path) for path in sorted(self.folder.iterdir()) if path.is_file()}


def describe(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


class HubServer(ThreadingHTTPServer):
    """Serves repositories by their names, and remembers the paths that were asked for and the bytes that were sent."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], repositories: Mapping[str, Repository]) -> None:
        super().__init__(address, HubHandler)
        self.repositories = dict(repositories)
        self.rate = 0.0  # bytes a second in each answer; 0: as fast as it goes
        self.asked: list[str] = []
        self.num_bytes = 0


class HubHandler(BaseHTTPRequestHandler):
    """Answers as the hub does. Of what one may not see it says 401 without a token, and 404 with one."""

    server: HubServer

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        if self.path == "/stats":
            self.send(200, json.dumps({"asked": self.server.asked, "bytes": self.server.num_bytes}).encode())
        elif self.path.startswith("/rate/"):
            self.server.rate = float(self.path.removeprefix("/rate/"))
            self.send(200, b"")
        else:
            self.answer()

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.removeprefix("/api/models").partition("?")[0]
        name, (what, revision, file) = "/".join(path.split("/")[1:3]), (path.split("/", 5)[3:] + [""] * 3)[:3]
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        repository = self.server.repositories.get(name)
        if "gated" in name:
            self.send(403, b"", "GatedRepo")
        elif token == "expired":
            self.send(401, b"", message="Invalid credentials in Authorization header")
        elif repository is None or repository.token not in ("", token):
            self.send(404 if token else 401, b"", "RepoNotFound")
        elif revision not in REVISIONS:
            self.send(404, b"", "RevisionNotFound")
        elif what == "revision":
            siblings = [{"rfilename": each} for each in repository.files]
            self.send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
        elif what == "tree":
            described = repository.files.items()
            tree = [{"type": "file", "path": each, "size": size, "oid": oid} for each, (size, oid) in described]
            self.send(200, json.dumps(tree).encode())
        elif file in repository.files:
            self.send_file(repository.folder / file, *repository.files[file])
        else:
            self.send(404, b"", "EntryNotFound")

    def send_file(self, path: Path, size: int, oid: str) -> None:
        """All of it, or the part that was asked for, at the server's rate."""
        part = RANGE.fullmatch(self.headers.get("Range", ""))
        first = int(part[1]) if part else 0
        last = min(int(part[2] or size), size - 1) if part else size - 1
        self.send_response(206 if part else 200)
        if part:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{oid}"')
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if self.command == "GET":
            with path.open("rb") as file, suppress(OSError):  # whoever asked may be gone
                file.seek(first)
                for start in range(first, last + 1, PIECE):
                    self.send_piece(file.read(min(PIECE, last + 1 - start)))

    def send_piece(self, piece: bytes) -> None:
        self.wfile.write(piece)
        self.server.num_bytes += len(piece)
        if self.server.rate:
            time.sleep(len(piece) / self.server.rate)

    def send(self, status: int, body: bytes, error: str | None = None, message: str | None = None) -> None:
        oid = hashlib.sha1(body, usedforsecurity=False).hexdigest()
        self.send_response(status)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{oid}"', "Content-Length": str(len(body))}
        if error is not None:
            headers["X-Error-Code"] = error
        if message is not None:
            headers["X-Error-Message"] = message
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def local_hub(name: str, folder: Path, token: str = "") -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` as the repository `name`: (address, paths asked for so far)."""
    with HubServer(("127.0.0.1", 0), {name: Repository(folder, token)}) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server.asked
        finally:
            server.shutdown()


if __name__ == "__main__":
    found = {name: Repository(Path(sys.argv[1]), token) for name, token in json.loads(sys.argv[3]).items()}
    HubServer(("", int(sys.argv[2])), found).serve_forever()
