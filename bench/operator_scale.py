"""What the operator costs with many services on a real API server, with simulated nodes.

    python bench/operator_scale.py --services 1000 --json bench/results/MACHINE/operator_scale.json

It starts the API server, controllers and simulated nodes of the cluster tools, and the operator as a process with the
chart's rights. All are on this machine, so the operator's CPU-seconds count, not the time that things take.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.bench.report import Report, Row

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from support import local_cluster  # noqa: E402  (of the tests, which are no package)
from support.api_server import ApiServer  # noqa: E402
from support.kube_cluster import Cluster, wait_until  # noqa: E402
from support.operator_program import OperatorProgram, install_account  # noqa: E402
from support.simulated_nodes import on_simulated_nodes, simulated_nodes  # noqa: E402

if TYPE_CHECKING:
    from support.local_cluster import LocalCluster

CLASS = "scale"
CHUNK = 50  # services in one `kubectl apply`
BUSY_SHARE = 0.1  # of a core: the operator is doing something
QUIET_SECONDS = 8  # without that: it is done
CUT_SECONDS = 20  # without an answer: calls fail
NUM_CHANGED = 10  # services that are changed while the operator cannot know
FAST = ("--kube-api-qps=2000", "--kube-api-burst=4000")  # controllers are not what is measured
FLAGS = {
    "kube-controller-manager": (
        *FAST,
        "--concurrent-deployment-syncs=16",
        "--concurrent-replicaset-syncs=16",
        "--concurrent-endpoint-syncs=1",
        "--concurrent-service-endpoint-syncs=8",
        "--node-monitor-grace-period=3600s",
    ),
    "kube-scheduler": FAST,
}
SPEC: dict[str, Any] = {"model": {"source": "hf://org/model"}, "decode": {"replicas": 1}}


class Scale:
    """One run; every step adds rows."""

    def __init__(self, cluster: Cluster, local: LocalCluster, folder: Path, num_services: int) -> None:
        self._cluster, self._folder, self._num = cluster, folder, num_services
        self._api, self._idle = ApiServer(local.state), 0.0  # share of a core
        self.rows: list[Row] = [Row(name="services", value=num_services, unit="")]
        self._system, self._kubeconfig = install_account(cluster, CLASS, folder)
        self.operator = self._start()

    def _start(self) -> OperatorProgram:
        return OperatorProgram(self._kubeconfig, self._system, CLASS, self._folder)

    def row(self, name: str, value: float, unit: str, limit: float | None = None, note: str = "") -> None:
        """Keep a figure, and say it."""
        self.rows.append(Row(name=name, value=round(value, 3), unit=unit, limit=limit, note=note))
        print(f"{time.strftime('%T')} {name}: {value:.3f} {unit} {note}", flush=True)

    def create(self) -> None:
        """All services, and everything that comes of them."""
        before, begun = self.operator.cpu_seconds, time.monotonic()
        for first in range(0, self._num, CHUNK):
            self._apply(range(first, min(first + CHUNK, self._num)), SPEC)
        wait_until(lambda: self._num_ready() == self._num, 3600, self.operator.log.read_text)
        seconds = time.monotonic() - begun
        self._settle()
        self.row("created: CPU", self.operator.cpu_seconds - before, "s", note=f"ready after {seconds:.0f} s")
        self.row("created: calls", self._writes(), "", note="writes to the API server")
        self.row("created: memory", self.operator.rss_mb, "MB", 500)

    def rest(self, seconds: float) -> None:
        """Nothing happens."""
        before, begun, writes = self.operator.cpu_seconds, time.monotonic(), self._writes()
        time.sleep(seconds)
        self._idle = (self.operator.cpu_seconds - before) / (time.monotonic() - begun)
        self.row("idle: CPU", self._idle * 100, "% of a core", note=f"over {seconds:.0f} s, no resync in it")
        self.row("idle: writes", self._writes() - writes, "", 0.0)

    def resync(self) -> None:
        """Everything is listed and looked at, as every ten minutes; here because calls have failed for a while."""
        with self._api.stopped():
            time.sleep(CUT_SECONDS)
        spent = self._relist("full resync")
        self.row("steady state: CPU", (self._idle + spent / 600) * 100, "% of a core", 5, "idle, and a resync in 600 s")

    def new_watches(self) -> None:
        """The API server is another process: all watches are made anew, and a resync follows."""
        with self._api.gone():
            time.sleep(1)
        self._relist("new API server")

    def _relist(self, what: str) -> float:
        before, begun = self.operator.cpu_seconds, time.monotonic()
        lists, writes, looks = self.operator.calls("list"), self._writes(), self._looks()
        wait_until(lambda: self.operator.calls("list") > lists, 120, self.operator.log.read_text)
        self._settle()
        spent, seconds = self.operator.cpu_seconds - before, time.monotonic() - begun
        note = f"{self._looks() - looks:.0f} looks in {seconds:.0f} s"
        self.row(f"{what}: CPU", spent, "s", 60, note)
        self.row(f"{what}: writes", self._writes() - writes, "")
        self.row(f"{what}: memory", self.operator.rss_mb, "MB", 500)
        return spent

    def absent(self, seconds: float) -> None:
        """The API server stops; what changes at the moment of its return is done soon after."""
        before, cpu, pods = time.monotonic(), self.operator.cpu_seconds, self._pods()
        restarts = 0
        with self._api.stopped():
            while time.monotonic() - before < seconds:
                restarts += not self.operator.is_alive()
                time.sleep(5)
        begun = time.monotonic()
        self.row("API server away: liveness refused", restarts, "", 0.0, f"stopped for {seconds:.0f} s")
        self.row("API server away: CPU", self.operator.cpu_seconds - cpu, "s")
        changed = range(NUM_CHANGED)
        self._apply(changed, {**SPEC, "decode": {"replicas": 2}})
        wait_until(lambda: self._num_with(2) == NUM_CHANGED, 300, self.operator.log.read_text)
        self.row("API server back: converged after", time.monotonic() - begun, "s", 30, f"{NUM_CHANGED} were changed")
        self.row("API server back: pods lost", len(pods - self._pods()), "", 0.0)
        self._settle()

    def restart(self) -> None:
        """Another process of the same operator finds everything as it should be."""
        assert self.operator.stop() == 0
        self.operator = self._start()
        begun = time.monotonic()
        wait_until(lambda: self.operator.said("operator.ready"), 120, self.operator.log.read_text)
        self._settle()
        self.row("restart: CPU", self.operator.cpu_seconds, "s", note=f"in {time.monotonic() - begun:.0f} s")
        self.row("restart: writes", self._writes(), "")
        self.row("restart: memory", self.operator.rss_mb, "MB", 500)

    def _apply(self, numbers: range, spec: dict[str, Any]) -> None:
        placed = on_simulated_nodes(spec)
        self._cluster.apply(*({**service(number), "spec": placed} for number in numbers))

    def _looks(self) -> float:
        return sum(self.operator.figures("penstock_operator_reconciles_total").values())

    def _writes(self) -> float:
        return self.operator.calls("apply", "create", "patch", "scale", "delete")

    def _settle(self) -> None:
        """Until the operator has done nothing for a while."""
        quiet_since, before = time.monotonic(), self.operator.cpu_seconds
        while time.monotonic() - quiet_since < QUIET_SECONDS:
            time.sleep(1)
            now = self.operator.cpu_seconds
            if now - before > BUSY_SHARE:
                quiet_since = time.monotonic()
            before = now

    def _num_ready(self) -> int:
        time.sleep(1 + self._num / 200)  # thousands of lines cost the API server something
        return self._cluster.kubectl("get", "inferenceservices", "--no-headers").split().count("True")

    def _num_with(self, replicas: int) -> int:
        path = '{range .items[*]}{.status.readyReplicas}{"\\n"}{end}'
        selector = ("-l", "app.kubernetes.io/component=both")
        return (
            self._cluster.kubectl("get", "deployments", *selector, "-o", f"jsonpath={path}")
            .split()
            .count(str(replicas))
        )

    def _pods(self) -> set[str]:
        return set(self._cluster.kubectl("get", "pods", "-o", "name").split())


def service(number: int) -> dict[str, Any]:
    """One of them, without a spec."""
    metadata = {
        "name": f"s{number}",
        "namespace": "default",
        "annotations": {"penstock.dev/operator-class": CLASS},
    }
    return {"apiVersion": "penstock.dev/v1alpha1", "kind": "InferenceService", "metadata": metadata}


def measure(num_services: int, idle_seconds: float, away_seconds: float) -> list[Row]:
    """Everything, in a cluster of its own."""
    with tempfile.TemporaryDirectory() as name, local_cluster.running(0, FLAGS) as local:
        folder = Path(name)
        cluster = Cluster(
            kubeconfig=local.kubeconfig, programs=str(local.programs), is_reachable=True, load=lambda archive: None
        )
        cluster.helm("upgrade", "--install", "penstock-crds", str(ROOT / "charts/penstock-crds"))
        with simulated_nodes(cluster, folder, 1 + num_services * 2 // 800):
            scale = Scale(cluster, local, folder, num_services)
            try:
                scale.create()
                scale.rest(idle_seconds)
                scale.resync()
                scale.restart()
                scale.new_watches()
                if away_seconds:
                    scale.absent(away_seconds)
            finally:
                scale.operator.kill()
            return scale.rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--idle", type=float, default=120.0, help="seconds of rest that are measured")
    parser.add_argument("--away", type=float, default=300.0, help="seconds without an API server; 0: leave that out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no cluster is left behind
    if reason := local_cluster.why_not():
        sys.exit(reason)
    command = (
        f"python bench/operator_scale.py --services {options.services} --idle {options.idle:g} --away {options.away:g}"
    )
    found = measure(options.services, options.idle, options.away)
    Report(benchmark="operator_scale", command=command, rows=found).publish(options.json)
