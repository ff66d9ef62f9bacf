"""Kube over real sockets: a server that notes each request and answers what the test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import kubernetes.client
import pytest

from penstock_operator.cluster.kube import Kube
from penstock_operator.errors import ApiError
from penstock_operator.kinds import DEPLOYMENT, INFERENCE_SERVICE, SERVICE
from support.certificates import FIRST
from support.serving import free_port

MANIFEST = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"}, "spec": {}}


class Server(ThreadingHTTPServer):
    def __init__(self):
        self.requests, self.answers, self.delay = [], [], 0.0
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path, dict(self.headers), json.loads(body) if body else None))
        time.sleep(self.server.delay)
        status, answer = self.server.answers.pop(0) if self.server.answers else (200, {})
        told = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer

    def log_message(self, format, *words):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def calls():
    return []


@pytest.fixture
def kube(server, calls):
    kube = connect(server.server_address[1], calls)
    yield kube
    kube._pool.clear()


def connect(port: int, calls: list, seconds: float = 5.0) -> Kube:
    configuration = kubernetes.client.Configuration()
    configuration.host = f"http://127.0.0.1:{port}"
    configuration.api_key["BearerToken"] = "Bearer secret"
    client = kubernetes.client.ApiClient(configuration)
    return Kube(client, seconds=seconds, tell=lambda verb, status, _: calls.append((verb, status)))


def test_paths_queries_and_bodies_are_those_of_the_api(kube, server):
    kube.get(INFERENCE_SERVICE, "default", "chat")
    kube.create(MANIFEST)
    kube.apply(MANIFEST)
    kube.apply_status({**MANIFEST, "status": {}})
    kube.merge(SERVICE, "default", "s", {"metadata": {"uid": "u"}})
    kube.scale(DEPLOYMENT, "default", "d", 3)
    kube.replace(MANIFEST)
    kube.delete(DEPLOYMENT, "default", "d", uid="u")
    manager = "fieldManager=penstock-operator"
    assert [(method, path) for method, path, _, _ in server.requests] == [
        ("GET", "/apis/penstock.dev/v1alpha1/namespaces/default/inferenceservices/chat"),
        ("POST", f"/api/v1/namespaces/default/services?{manager}&fieldValidation=Strict"),
        ("PATCH", f"/api/v1/namespaces/default/services/s?{manager}&force=true"),
        ("PATCH", f"/api/v1/namespaces/default/services/s/status?{manager}&force=true"),
        ("PATCH", f"/api/v1/namespaces/default/services/s?{manager}"),
        ("PATCH", f"/apis/apps/v1/namespaces/default/deployments/d/scale?{manager}"),
        ("PUT", "/api/v1/namespaces/default/services/s"),
        ("DELETE", "/apis/apps/v1/namespaces/default/deployments/d"),
    ]
    content = [headers["content-type"].partition("/")[2] for _, _, headers, _ in server.requests]
    assert content[2:6] == ["apply-patch+yaml", "apply-patch+yaml", "merge-patch+json", "merge-patch+json"]
    assert all(headers["authorization"] == "Bearer secret" for _, _, headers, _ in server.requests)
    assert server.requests[1][3] == MANIFEST
    assert server.requests[5][3] == {"spec": {"replicas": 3}}
    assert server.requests[7][3] == {"preconditions": {"uid": "u"}, "propagationPolicy": "Background"}


def test_long_lists_come_in_pages_and_items_say_what_they_are(kube, server):
    server.answers += [
        (200, {"metadata": {"continue": "next", "resourceVersion": "7"}, "items": [{"metadata": {"name": "a"}}]}),
        (200, {"metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "b"}}]}),
    ]
    found, version = kube.list(DEPLOYMENT, None, "a=b")
    assert len(server.requests) == 1
    items = list(found)
    assert ([one["metadata"]["name"] for one in items], version) == (["a", "b"], "7")
    assert {(one["apiVersion"], one["kind"]) for one in items} == {("apps/v1", "Deployment")}
    assert [path for _, path, _, _ in server.requests] == [
        "/apis/apps/v1/deployments?limit=200&labelSelector=a%3Db",
        "/apis/apps/v1/deployments?limit=200&labelSelector=a%3Db&continue=next",
    ]


def test_what_the_server_refuses_is_told_with_its_own_words(kube, server, calls):
    server.answers.append((422, {"kind": "Status", "message": "spec.replicas: must be positive", "reason": "Invalid"}))
    with pytest.raises(ApiError, match="must be positive") as caught:
        kube.apply(MANIFEST)
    assert (caught.value.status, caught.value.reason) == (422, "Invalid")
    assert calls == [("apply", 422)]
    server.answers.append((503, b"<html>overloaded</html>"))
    with pytest.raises(ApiError, match="overloaded") as caught:
        kube.get(SERVICE, "default", "s")
    assert caught.value.status == 503


def test_a_server_that_is_slow_or_away_or_talks_nonsense_is_no_answer(kube, server, calls):
    server.answers.append((200, b"not json"))
    with pytest.raises(ApiError, match="did not answer") as caught:
        kube.get(SERVICE, "default", "s")
    assert caught.value.status == 0
    server.delay = 1.0
    slow = connect(server.server_address[1], calls, seconds=0.2)
    begun = time.monotonic()
    with pytest.raises(ApiError) as caught:
        slow.get(SERVICE, "default", "s")
    assert (caught.value.status, time.monotonic() - begun < 0.9) == (0, True)
    with pytest.raises(ApiError) as caught:
        connect(free_port(), calls).get(SERVICE, "default", "s")
    assert caught.value.status == 0
    slow._pool.clear()


def test_what_is_gone_already_needs_no_deletion(kube, server):
    server.answers.append((404, {"message": "not found", "reason": "NotFound"}))
    kube.delete(DEPLOYMENT, "default", "d", uid="u")
    server.answers.append((409, {"message": "the UID in the precondition differs", "reason": "Conflict"}))
    with pytest.raises(ApiError):
        kube.delete(DEPLOYMENT, "default", "d", uid="u")


def test_an_api_that_is_not_there_has_no_kinds(kube, server):
    server.answers += [(404, {"message": "not found"}), (200, {"resources": [{"name": "deployments"}]})]
    assert kube.resources("monitoring.coreos.com/v1") == frozenset()
    assert kube.resources("apps/v1") == {"deployments"}
    assert [path for _, path, _, _ in server.requests] == ["/apis/monitoring.coreos.com/v1", "/apis/apps/v1"]


def test_without_a_kubeconfig_the_pods_own_credentials_are_taken_in_silence(tmp_path):
    program = "from penstock_operator.cluster.kube import connect; print(connect().configuration.host)"
    (tmp_path / "token").write_text("t")
    (tmp_path / "ca.crt").write_text(FIRST)
    patch = "import kubernetes.config.incluster_config as i; i.SERVICE_TOKEN_FILENAME, i.SERVICE_CERT_FILENAME = "
    files = f"{str(tmp_path / 'token')!r}, {str(tmp_path / 'ca.crt')!r}\n"
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    environment |= {"HOME": str(tmp_path), "KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    words = [sys.executable, "-c", patch + files + program]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("https://[fd00::1]:443\n", "")


def test_without_any_credentials_it_is_said_what_to_set(tmp_path):
    program = "from penstock_operator.cluster.kube import connect; connect()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=environment | {"HOME": str(tmp_path)}, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("run in a pod, or set KUBECONFIG")
    assert done.stdout == ""
