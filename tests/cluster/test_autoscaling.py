"""HPAs and KEDA, the real ones, scale a service by what the operator tells them.

The operator runs beside the control plane. Pods fit on no node and are declared ready; what they do is told by a router
of the test's own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock.internal.fleet import FleetEndpoint, RouterTotals
from penstock_operator.autoscale.api_service import ASKED, NAME, certificates
from support import local_cluster
from support.fleet_teller import FleetTeller, fleet_teller
from support.kube_cluster import Cluster, wait_until

SYSTEM = "penstock-system"
HERE, PORT = "10.10.0.1", 7443  # of the control plane, where KEDA and the API server find what runs beside them
NOWHERE = {"spec": {"nodeSelector": {"penstock.test/none": "such"}}}
SECONDS = 90.0


class Told:
    """A service whose pods are ready as soon as they are there, and do what the test says."""

    def __init__(self, cluster: Cluster, namespace: str, teller: FleetTeller, autoscaling: dict):
        self.cluster, self.namespace, self.teller = cluster, namespace, teller
        spec = {
            "model": {"source": "hf://org/model"},
            "decode": {"template": NOWHERE},
            "router": {"template": NOWHERE},
            "autoscaling": autoscaling | {"decode": {"min": 1, "max": 5}},
        }
        metadata = {"name": "chat", "namespace": namespace}
        cluster.apply(
            {"apiVersion": "penstock.dev/v1alpha1", "kind": "InferenceService", "metadata": metadata, "spec": spec}
        )

    def breathe(self, *, held: int = 0, **load: float) -> None:
        """Every pod is ready; the router tells of each that it has this load."""
        pods = self.cluster.items("pods", self.namespace)
        names = []
        for pod in pods:
            name, role = pod["metadata"]["name"], pod["metadata"]["labels"]["app.kubernetes.io/component"]
            address = self.teller.address if role == "router" else "10.99.0.1"
            names += [] if role == "router" else [name]
            if not pod["status"].get("podIP"):
                ready = {"type": "Ready", "status": "True"}
                status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [ready]}
                words = ("patch", "pod", name, "-n", self.namespace, "--subresource=status", "--type=merge", "-p")
                self.cluster.kubectl(*words, json.dumps({"status": status}))
        self.teller.router = RouterTotals(held=held, in_flight=held)
        self.teller.endpoints = [
            FleetEndpoint(name=name, role="both", url="http://x", state="ready", max_num_seqs=64, **load)
            for name in names
        ]

    @property
    def request(self) -> int:
        return self.cluster.get("rolescaler", "chat-both", self.namespace)["spec"]["replicas"]

    def reaches(self, number: int, **load: float) -> None:
        """Under that load, somebody asks for that many pods."""

        def is_there() -> bool:
            self.breathe(**load)
            return self.request == number

        wait_until(lambda: self.is_made(), SECONDS, "the service was not made")
        wait_until(is_there, SECONDS, self.story)

    def is_made(self) -> bool:
        words = ("get", "rolescaler", "chat-both", "-n", self.namespace)
        return self.cluster.run("kubectl", *words).returncode == 0

    def story(self) -> str:
        words = (("get", "hpa,rolescalers,pods"), ("describe", "hpa"), ("get", "inferenceservice", "-o", "yaml"))
        return "\n".join(self.cluster.run("kubectl", *each, "-n", self.namespace).stdout for each in words)


@pytest.fixture(scope="module")
def teller(cluster: Cluster) -> Iterator[FleetTeller]:
    """A router that tells what the test wants, in a thread of its own."""
    ready, stop, found = threading.Event(), asyncio.Event(), []
    loops: list[asyncio.AbstractEventLoop] = []

    async def tell() -> None:
        loops.append(asyncio.get_running_loop())
        async with fleet_teller(8000) as one:
            found.append(one)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(tell()))
    thread.start()
    assert ready.wait(10)
    yield found[0]
    loops[0].call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture(scope="module")
def beside(cluster: Cluster, definitions: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The operator as a process beside the control plane; the folder with its certificate and its log."""
    if not cluster.is_reachable:
        pytest.skip("the operator runs beside the control plane, which only a cluster of our own lets it")
    folder = tmp_path_factory.mktemp("beside")
    (folder / "key").write_text("k" * 64)
    certify(folder)
    flags = {
        "master-key-file": folder / "key",
        "operator-namespace": SYSTEM,
        "runtime-image": "nowhere:1",
        "external-metrics-port": PORT,
        "external-metrics-folder": folder,
        "keda-port": 6000,
        "scaler-address": f"{HERE}:6000",
        "metrics-port": 0,
        "health-port": 0,
        "scrape-seconds": 0.5,
        "resync-seconds": 5,
    }
    words = [f"--{flag}={value}" for flag, value in flags.items()]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock_operator", "run", "--no-leader-election", *words],
            env=os.environ | {"KUBECONFIG": str(cluster.kubeconfig)},
            stdout=log,
            stderr=log,
        )
    cluster.run("kubectl", "create", "namespace", SYSTEM)
    yield folder
    process.terminate()
    assert process.wait(30) == 0, (folder / "log").read_text()


def certify(folder: Path) -> None:
    """A certificate for the operator's Service."""
    name = f"penstock.{SYSTEM}.svc"
    words = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}")
    files = ("-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt"))
    subprocess.run([*words, "-addext", f"subjectAltName=DNS:{name}", *files], check=True, capture_output=True)


@contextmanager
def served_metrics(cluster: Cluster) -> Iterator[None]:
    """The API server asks the operator for external metrics, and is told by it whom to believe."""
    metadata = {"name": "penstock", "namespace": SYSTEM}
    ports = [{"name": "https", "port": 443, "targetPort": PORT}]
    slice_metadata = metadata | {"labels": {"kubernetes.io/service-name": "penstock"}}
    cluster.apply(
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": slice_metadata,
            "addressType": "IPv4",
            "endpoints": [{"addresses": [HERE], "conditions": {"ready": True}}],
            "ports": [{"name": "https", "port": PORT}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": NAME, "annotations": dict([ASKED])},
            "spec": {
                "group": "external.metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"name": "penstock", "namespace": SYSTEM},
            },
        },
    )
    try:
        cluster.kubectl("wait", "--for=condition=Available", f"apiservice/{NAME}", "--timeout=90s")
        yield
    finally:
        cluster.kubectl("delete", "apiservice", NAME)
        cluster.kubectl("delete", "service/penstock", "endpointslice/penstock", "-n", SYSTEM, "--ignore-not-found")


@pytest.fixture
def told(cluster: Cluster, beside: Path, teller: FleetTeller) -> Iterator[Callable[[dict], Told]]:
    """Makes a service with that autoscaling."""
    name = f"scaled-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", name)
    yield lambda autoscaling: Told(cluster, name, teller, autoscaling)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


def test_an_hpa_scales_a_service_up_and_down_by_our_external_metric(cluster, beside, told):
    with served_metrics(cluster):
        service = told({"mode": "HPA", "windows": {"down": "5s"}})
        service.reaches(2, kv_usage=1.0, running=8)
        service.reaches(1, kv_usage=0.1, running=1)
        words = ("get", "--raw", f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{service.namespace}")
        query = "/penstock-pods-needed?labelSelector=service%3Dchat,role%3Dboth"
        service.breathe(kv_usage=0.1, running=1)
        assert json.loads(cluster.kubectl(*words[:2], words[2] + query))["items"][0]["value"].endswith("m")


def test_a_new_certificate_is_served_and_believed_while_the_api_server_asks_on(cluster, beside):
    with served_metrics(cluster):
        before = believed(cluster)
        certify(beside)
        wait_until(lambda: believed(cluster) > before, SECONDS, lambda: (beside / "log").read_text())
        assert believed(cluster) == before + 1
        wait_until(lambda: is_answered(cluster), 30, "the API server does not believe the new certificate")


def believed(cluster: Cluster) -> int:
    """How many certificates the API server believes."""
    bundle = cluster.kubectl("get", "apiservice", NAME, "-o", "jsonpath={.spec.caBundle}")
    return len(certificates(base64.b64decode(bundle)))


def is_answered(cluster: Cluster) -> bool:
    return cluster.run("kubectl", "get", "--raw", "/apis/external.metrics.k8s.io/v1beta1").returncode == 0


def test_whoever_is_not_the_api_server_is_not_answered(cluster, beside):
    pki = cluster.kubeconfig.parent / "pki"  # one CA has signed all certificates of this cluster
    shown = ("--cert", str(pki / "admin.crt"), "--key", str(pki / "admin.key"))
    url = f"https://{HERE}:{PORT}/apis/external.metrics.k8s.io/v1beta1"
    answer = cluster.run("curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", *shown, url)
    assert answer.stdout == "403"
    proxy = ("--cert", str(pki / "front-proxy.crt"), "--key", str(pki / "front-proxy.key"))
    assert cluster.run("curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", *proxy, url).stdout == "200"


@pytest.fixture
def keda(cluster: Cluster, beside: Path) -> Iterator[None]:
    """The real KEDA, with nothing of it left for the tests that follow."""
    tools = local_cluster.find_tools()
    assert tools is not None
    own = local_cluster.LocalCluster(tools, os.getpid())
    own.start_keda()
    yield
    words = ("get", "scaledobjects", "-A", "-o", "name")
    wait_until(lambda: not cluster.kubectl(*words).strip(), SECONDS, "ScaledObjects are left")
    own.stop_keda()
    cluster.kubectl("delete", "apiservice", NAME)
    names = cluster.kubectl("get", "customresourcedefinitions", "-o", "name").split()
    cluster.kubectl("delete", "namespace/keda", *(name for name in names if name.endswith("keda.sh")))


def test_keda_scales_a_service_up_and_to_zero_and_back(keda, told):
    service = told({"mode": "KEDA", "scaleToZeroAfter": "10s", "windows": {"down": "5s"}})
    service.reaches(2, kv_usage=1.0, running=8)
    service.reaches(0)
    service.reaches(1, held=1)
