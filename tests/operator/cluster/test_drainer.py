"""Pods verify with the runtime's own keys what the operator tells them."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from penstock.errors import Unauthorized
from penstock.internal.credentials import ClusterKeys
from penstock.internal.protocol import Load
from penstock_operator.cluster.drainer import Drainer
from penstock_operator.desired.identity import service_key
from penstock_operator.plan.actions import Drain
from support.serving import free_port

MASTER = b"m" * 32
UID = "4e8c"
NOW = 123.0  # of the pod's clock
LOAD = Load(
    name="p",
    role="decode",
    model="m",
    version="0",
    revision="r",
    fingerprint="f",
    session="life-1",
    now=NOW,
    ready=True,
    draining=False,
    stalled=0.0,
    running=0,
    waiting=0,
    queued_tokens=0,
    prefill_rate=None,
    output_tokens=0,
    kv_usage=0.0,
    capacity_tokens=1,
    max_model_len=1,
    max_num_seqs=1,
)


class Pod(ThreadingHTTPServer):
    """Answers on its internal port as `penstock serve` does, with the keys of one service."""

    def __init__(self, folder, key: bytes):
        (folder / "key").write_bytes(key + b"\n")
        self.keys, self.told = ClusterKeys(folder / "key"), []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(json.dumps(msgspec.to_builtins(LOAD)).encode())

    def do_POST(self):
        self.answer(b"{}")

    def answer(self, body: bytes):
        header = self.headers["Authorization"].encode()
        try:
            self.server.keys.verify(header, purpose=self.path, body=b"", session=LOAD.session, now=NOW + 1.0)
        except Unauthorized:
            self.send_response(401)
        else:
            self.send_response(200)
            self.server.told.append(f"{self.command} {self.path}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *words):
        pass


@pytest.fixture
def pod(tmp_path):
    pod = Pod(tmp_path, service_key(MASTER, UID))
    yield pod
    pod.shutdown()
    pod.server_close()


def test_a_pod_is_told_to_drain_and_to_serve_again(pod):
    drainer = Drainer(lambda: MASTER)
    drainer.tell(UID, Drain(pod="p", uid="u", address=pod.address))
    assert pod.told == ["GET /internal/v1/load", "POST /internal/v1/drain"]
    drainer.tell(UID, Drain(pod="p", uid="u", address=pod.address, is_undrain=True))
    assert pod.told[-1] == "POST /internal/v1/undrain"


def test_a_pod_of_another_service_does_not_listen(pod, caplog):
    Drainer(lambda: MASTER).tell("another", Drain(pod="p", uid="u", address=pod.address))
    Drainer(lambda: b"x" * 32).tell(UID, Drain(pod="p", uid="u", address=pod.address))
    assert pod.told == []
    assert caplog.text.count("drain.failed") == 2


def test_a_pod_that_is_gone_is_logged_once(caplog):
    drainer = Drainer(lambda: MASTER)
    gone = Drain(pod="p", uid="u", address=f"127.0.0.1:{free_port()}")
    for _ in range(3):
        drainer.tell(UID, gone)
    assert caplog.text.count("drain.failed") == 1
