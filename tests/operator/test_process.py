"""The whole process, kopf included, over HTTP and an API server in memory that can be away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest
import yaml

from penstock_operator.kinds import DEPLOYMENT, INFERENCE_SERVICE, LEASE, SERVICE
from support.memory_api import MemoryApi
from support.memory_cluster import MemoryCluster
from support.memory_server import MemoryServer
from support.operator_run import MINIMAL
from support.serving import free_port


class Site:
    """An API server, its controllers, and one operator as a process."""

    def __init__(self, folder) -> None:
        self.api = MemoryApi()
        self.server, self.cluster = MemoryServer(self.api), MemoryCluster(self.api)
        self.log, self.health = folder / "log", free_port()
        (folder / "key").write_text("k" * 32)
        (folder / "kubeconfig").write_text(self.server.kubeconfig())
        ports = ("--health-port", str(self.health), "--metrics-port", str(free_port()))
        words = ("run", "--master-key-file", str(folder / "key"), "--runtime-image", "i", *ports)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock_operator", *words],
                env={**os.environ, "KUBECONFIG": str(folder / "kubeconfig")},
                stderr=log,
            )
        self._stop = threading.Event()
        self._controllers = threading.Thread(target=self._control, daemon=True)
        self._controllers.start()

    def _control(self) -> None:
        while not self._stop.wait(0.2):
            if self.server.is_up:
                self.cluster.step()

    def close(self) -> None:
        self._stop.set()
        self._controllers.join(10)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.server.stop()

    def create(self, name: str) -> None:
        manifest = yaml.safe_load(MINIMAL)
        manifest["metadata"]["name"] = name
        self.api.post({**manifest, "status": {"observedGeneration": -1}})

    def is_ready(self, name: str) -> bool:
        conditions = self.api.find(INFERENCE_SERVICE, name)["status"].get("conditions", ())
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def probe(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}{path}", timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except OSError:
            return 0

    def wait(self, is_so: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.mark.slow
def test_the_process_serves_survives_an_outage_and_gives_the_lease_up(site):
    site.wait(lambda: site.probe("/readyz") == 200)
    site.create("chat")
    site.wait(lambda: site.is_ready("chat"))
    site.api.remove(SERVICE, "default", "chat")
    site.wait(lambda: site.api.find(SERVICE, "chat") is not None)

    site.server.stop()
    time.sleep(2.0)
    assert site.probe("/livez") == 200
    site.api.remove(INFERENCE_SERVICE, "default", "chat")
    site.create("other")
    site.server.start()
    site.wait(lambda: site.is_ready("other"))
    time.sleep(6.0)  # until everything was listed anew
    assert [one for one in site.api.all(DEPLOYMENT) if one["metadata"]["name"].startswith("chat-")] == []
    assert site.probe("/livez") == 200
    assert site.process.poll() is None

    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(20) == 0
    (lease,) = site.api.all(LEASE)
    assert lease["spec"]["holderIdentity"] == ""
    verbs = {verb for verb, kind, _ in site.api.calls if kind == "Secret"}
    assert verbs == {"apply"}, "keys of services are written and never read"
    assert "Traceback" not in site.log.read_text()
