"""How much of a hub model has arrived, told over HTTP to whoever looks after the download."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from penstock.errors import ModelError
from penstock.listener import ANY, bind
from penstock.loader.hub import UNWANTED, WANTED, explained

PROGRESS_PATH = "/progress"


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes."""

    done: int
    total: int


class HubDownload:
    """Looks at the hub's list of files once, and at the local cache each time."""

    def __init__(self, name: str, revision: str | None) -> None:
        self._name, self._revision = name, revision
        self._lock = threading.Lock()
        self._total: int | None = None
        self._offset = 0  # bytes of ours that were there at the first look, less all that was

    def progress(self) -> Progress:
        """What has arrived by now. Raises `ModelError` while the hub does not say how much there is."""
        with self._lock:
            if self._total is None:
                self._total = self._first_look()
            return Progress(min(self._total, max(0, self._offset + self._cached_bytes())), self._total)

    def _first_look(self) -> int:
        from huggingface_hub import snapshot_download  # slow to import, and only needed here

        sizes: list[tuple[int, bool]] = []

        def list_files() -> str:
            found = snapshot_download(
                self._name,
                revision=self._revision,
                allow_patterns=list(WANTED),
                ignore_patterns=list(UNWANTED),
                dry_run=True,
            )
            sizes.extend((file.file_size or 0, file.is_cached) for file in found)
            return ""

        before = self._cached_bytes()
        explained(self._name, self._revision, list_files)
        self._offset = sum(size for size, is_cached in sizes if is_cached) - before
        return sum(size for size, _ in sizes)

    def _cached_bytes(self) -> int:
        """Of all revisions of the model, and of files that are on their way."""
        from huggingface_hub.constants import HF_HUB_CACHE

        blobs = Path(HF_HUB_CACHE) / f"models--{self._name.replace('/', '--')}" / "blobs"
        try:
            return sum(file.stat().st_size for file in blobs.iterdir())
        except OSError:  # not there yet, or a file just got its final name
            return 0


class ProgressServer(ThreadingHTTPServer):
    """Answers GET /progress on all addresses, in threads that end with the process."""

    daemon_threads = True

    def __init__(self, port: int, download: HubDownload) -> None:
        super().__init__(("", port), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bind(ANY, port, port_field="report_port")  # IPv6 as well, and without a look at DNS
        self.server_port = self.socket.getsockname()[1]
        self.server_activate()
        self.download = download

    def start(self) -> None:
        """Answer from now on."""
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: ProgressServer

    def do_GET(self) -> None:
        """The progress as JSON; 503 while it is not known."""
        if self.path != PROGRESS_PATH:
            self._answer(404, {"error": "there is /progress"})
            return
        try:
            self._answer(200, asdict(self.server.download.progress()))
        except ModelError as error:
            self._answer(503, {"error": str(error)})

    def log_message(self, *_: object) -> None:
        """Nothing: requests are no news."""

    def _answer(self, status: int, value: dict[str, object]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
