"""The reads of a `MemoryApi` over real HTTP, and a kubeconfig that leads there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import yaml

from penstock_operator.cluster.kube import root_of
from penstock_operator.errors import ApiError
from penstock_operator.kinds import ALL
from support.memory_api import MemoryApi


@contextmanager
def kubeconfig(api: MemoryApi, folder: Path, *, namespace: str = "default") -> Iterator[Path]:
    """Path of a kubeconfig whose only context is `test`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlparse(self.path)
            try:
                status, body = 200, answer(api, url.path, parse_qs(url.query).get("labelSelector", [""])[0])
            except ApiError as error:
                status, body = error.status, {"message": str(error), "reason": error.reason}
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    file = folder / "kubeconfig"
    context = {"cluster": "c", "user": "u", "namespace": namespace}
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "contexts": [{"name": "test", "context": context}],
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )
    try:
        yield file
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(api: MemoryApi, path: str, selector: str) -> dict:
    """What the API server would say to a GET."""
    for kind in ALL:
        root = root_of(kind.api_version) + "/"
        if not path.startswith(root):
            continue
        words = path.removeprefix(root).split("/")
        namespace = words[1] if words[0] == "namespaces" else None
        rest = words[2:] if namespace else words
        if rest[0] == kind.plural:
            if len(rest) > 1:
                return api.get(kind, namespace, rest[1])
            items, version = api.list(kind, namespace, selector)
            return {"items": items, "metadata": {"resourceVersion": version}}
    raise ApiError(404, f"nothing is at {path}", reason="NotFound")
