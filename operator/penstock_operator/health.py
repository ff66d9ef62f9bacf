"""`/livez` and `/readyz`, and the small HTTP server that answers them and `/metrics`."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from penstock_operator.kinds import Kind

SILENT_SECONDS = 120.0  # of a watch that is known to have missed something

Answer = tuple[int, bytes]


class Server(ThreadingHTTPServer):
    """On both families, where the kernel has both."""

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    daemon_threads = True

    def server_bind(self) -> None:
        """Without a look at DNS for the machine's name, which the base class takes."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)


class Health:
    """Judges the process by what it should have heard. An API server that is away is no reason to start anew."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic."""
        self._clock = clock
        self._lock = threading.Lock()
        self._suspects: dict[Kind, float] = {}  # watches that missed what a list told us, and have said nothing since
        self._is_starting = True

    def missed(self, kind: Kind) -> None:
        """The API server told in a list what the watch of that kind had not."""
        with self._lock:
            self._suspects.setdefault(kind, self._clock())

    def heard(self, kind: Kind) -> None:
        """The watch of that kind has said something."""
        if kind in self._suspects:
            with self._lock:
                self._suspects.pop(kind, None)

    def ready(self) -> None:
        """Everything has been listed once."""
        self._is_starting = False

    @property
    def is_starting(self) -> bool:
        """True until everything has been listed once."""
        return self._is_starting

    @property
    def has_suspects(self) -> bool:
        """True while a watch may be silent."""
        return bool(self._suspects)

    def livez(self) -> Answer:
        """200, unless a watch has been silent for long although the API server answers."""
        with self._lock:
            silent = [kind.plural for kind, at in self._suspects.items() if self._clock() - at > SILENT_SECONDS]
        return (503, f"the watch of {', '.join(silent)} is silent\n".encode()) if silent else (200, b"ok\n")

    def readyz(self) -> Answer:
        """200 once everything was listed."""
        return (503, b"not everything has been listed yet\n") if self._is_starting else (200, b"ok\n")


def serve(port: int, pages: Mapping[str, Callable[[], Answer]]) -> Server:
    """Answer GET of these paths on every address, of IPv4 and IPv6, in threads of its own; `shutdown()` ends it."""

    class Handler(BaseHTTPRequestHandler):
        """One request."""

        def do_GET(self) -> None:
            """Answer it."""
            page = pages.get(self.path.partition("?")[0])
            status, body = page() if page is not None else (404, b"not found\n")
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *words: object) -> None:
            """Nothing: probes come every few seconds."""

    server = Server(("", port), Handler)
    threading.Thread(target=server.serve_forever, name=f"http-{port}", daemon=True).start()
    return server
