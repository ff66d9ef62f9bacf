"""`penstock-operator run` as a process of its own beside a real API server, with the rights that the chart gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import psutil
import yaml

from support.kube_cluster import Cluster
from support.serving import free_port

CHART = Path(__file__).parents[2] / "charts/penstock"


def install_account(cluster: Cluster, operator_class: str, folder: Path) -> tuple[str, Path]:
    """A namespace with the chart's account and rights and no pod, and a kubeconfig with that account's token alone."""
    system = f"beside-{uuid.uuid4().hex[:6]}"
    words = ("--namespace", system, "--create-namespace", "--set=replicas=0", f"--set=operatorClass={operator_class}")
    cluster.helm("upgrade", "--install", system, str(CHART), *words)
    account = cluster.items("serviceaccount", system, "-l", f"app.kubernetes.io/instance={system}")[0]
    token = cluster.kubectl("create", "token", account["metadata"]["name"], "-n", system, "--duration=3h").strip()
    config = yaml.safe_load(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten"))
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    path = folder / f"{system}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return system, path


class OperatorProgram:
    """One process. It leads as soon as the Lease is free."""

    def __init__(self, kubeconfig: Path, system: str, operator_class: str, folder: Path, *words: str) -> None:
        """`words`: further flags."""
        self.health, self.metrics = free_port(), free_port()
        self.log, key = folder / f"operator-{uuid.uuid4().hex[:6]}.log", folder / "key"
        key.write_text("k" * 40)
        where = ("--operator-class", operator_class, "--operator-namespace", system, "--pod-name", self.log.stem)
        what = ("--master-key-file", str(key), "--runtime-image", "penstock-runtime-cpu:none")
        ports = ("--health-port", str(self.health), "--metrics-port", str(self.metrics))
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock_operator", "run", *where, *what, *ports, *words],
                env=os.environ | {"KUBECONFIG": str(kubeconfig), "PYTHONFAULTHANDLER": "1"},
                stderr=log,
            )
        self._seen = psutil.Process(self.process.pid)

    def kill(self) -> None:
        """As a machine that loses power would."""
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        """End it in peace; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def said(self, text: str) -> bool:
        """True if the log has that."""
        return text in self.log.read_text()

    def why(self) -> str:
        """For a test that has failed: what it said, and where its threads are."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(30)
        return self.log.read_text()

    @property
    def cpu_seconds(self) -> float:
        """Of all its threads so far."""
        times = self._seen.cpu_times()
        return times.user + times.system

    @property
    def rss_mb(self) -> float:
        """Resident memory, MB."""
        return self._seen.memory_info().rss / 1e6

    def is_alive(self) -> bool:
        """What a liveness probe would find."""
        try:
            answer = urllib.request.urlopen(f"http://127.0.0.1:{self.health}/livez", timeout=5)
        except (OSError, urllib.error.HTTPError):
            return False
        return answer.status == 200

    def page(self) -> str:
        """All its metrics."""
        return urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=20).read().decode()

    def figures(self, name: str) -> dict[str, float]:
        """Its metrics whose name begins so: labels -> value."""
        lines = (line.rpartition(" ") for line in self.page().splitlines() if line.startswith(name))
        return {labels.removeprefix(name): float(value) for labels, _, value in lines}

    def calls(self, *verbs: str) -> float:
        """Calls to the API server so far, with these verbs."""
        found = self.figures("penstock_operator_api_calls_total")
        return sum(count for labels, count in found.items() if any(f'verb="{verb}"' in labels for verb in verbs))
