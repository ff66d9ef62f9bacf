"""A real Kubernetes: `make test-cluster`, or `pytest tests/cluster --cluster=local|kind|kubeconfig`.

`local` starts one on this machine; `kind` takes the cluster that `make kind-up` made; `kubeconfig` takes the current
context, into whose nodes the images of `make image IMAGE_TAG=…` have been brought already (`--image-tag`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import container_images, local_cluster
from support.container_images import Image
from support.kube_cluster import Cluster

KIND_CLUSTER = "penstock"  # as in the Makefile
CHARTS = local_cluster.ROOT / "charts"
SYSTEM = "penstock-system"
HOST_LABEL = r"kubernetes\.io/hostname"  # as helm wants it in the name of a value


def pytest_addoption(parser):
    parser.addoption(
        "--cluster", choices=("local", "kind", "kubeconfig"), help="run the cluster tests against such a cluster"
    )
    parser.addoption("--minutes", type=float, default=1.0, help="for which the test of a step of load watches it")
    parser.addoption("--image-tag", default="0.1.0", help="of the images that a cluster of --cluster=kubeconfig has")


def pytest_configure(config):
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no cluster is left behind


def pytest_ignore_collect(collection_path, config):
    return None if config.getoption("--cluster", None) else True


def pytest_collection_modifyitems(config, items):
    """First who starts operators of its own; then who shares the installed one, and last, what that has done."""
    mine = [item for item in items if Path(__file__).parent in item.path.parents]
    items.sort(key=lambda item: (item in mine, "operator" in item.fixturenames, item.path.stem == "test_rights"))
    reason = why_not(config.getoption("--cluster"))
    for item in mine:
        item.add_marker(pytest.mark.cluster)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def why_not(cluster: str | None) -> str:
    """Why no test can run, or nothing. A test that is named by its file must not find the reader's own cluster."""
    if cluster is None:
        return "say which cluster: --cluster=local|kind|kubeconfig"
    return local_cluster.why_not() if cluster == "local" else ""


@pytest.fixture(scope="session")
def built_runtime(request) -> Iterator[Image]:
    """The runtime's image for CPUs, with the embedded model inside."""
    yield from built("runtime-cpu", request.config)


@pytest.fixture(scope="session")
def built_operator(request) -> Iterator[Image]:
    """The operator's image."""
    yield from built("operator", request.config)


def built(target: str, config: pytest.Config) -> Iterator[Image]:
    """The image of a target, whose archive stays meanwhile."""
    if config.getoption("--cluster") == "kubeconfig":
        yield Image(name=f"penstock-{target}:{config.getoption('--image-tag')}", archive=Path(os.devnull))
        return
    if reason := container_images.why_not():
        pytest.skip(reason)
    image = container_images.build(target)
    yield image
    if image.hold is not None:
        image.hold.close()


@pytest.fixture(scope="session")
def cluster(request) -> Iterator[Cluster]:
    """The cluster of this run, with nothing of ours in it. Images are built first: its network leads nowhere."""
    for fixture in ("built_runtime", "built_operator"):
        if not container_images.why_not() and is_asked_for(request.session, fixture):
            request.getfixturevalue(fixture)
    match request.config.getoption("--cluster"):
        case "local":
            with local_cluster.running(2 if is_asked_for(request.session, "second_node") else 1) as it:
                yield Cluster(
                    kubeconfig=it.kubeconfig,
                    programs=str(it.programs),
                    is_reachable=True,
                    load=it.load,
                    audit=it.audit_log,
                    cut_off=it.cut_off,
                )
        case "kind":
            kubeconfig = Path.home() / ".kube" / f"kind-{KIND_CLUSTER}"
            words = ("kind", "get", "kubeconfig", "--name", KIND_CLUSTER)
            kubeconfig.parent.mkdir(exist_ok=True)
            kubeconfig.write_text(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
            yield Cluster(kubeconfig=kubeconfig, programs="", is_reachable=False, load=load_into_kind)
        case _:
            chosen = Path(os.environ.get("KUBECONFIG", "~/.kube/config")).expanduser()
            yield Cluster(kubeconfig=chosen, programs="", is_reachable=False, load=lambda archive: None)


def is_asked_for(session: pytest.Session, fixture: str) -> bool:
    """True if a test of this run wants it."""
    return any(fixture in item.fixturenames for item in session.items)


@pytest.fixture(scope="session")
def second_node(cluster) -> int:
    """The number of a node that a test may cut off: nothing runs there that it needs itself."""
    if cluster.cut_off is None:
        pytest.skip("only nodes of a cluster of our own are cut off")
    return 2


@pytest.fixture(scope="session")
def runtime_image(built_runtime, cluster) -> str:
    """Name of the runtime's image, which every node has."""
    cluster.load(built_runtime.archive)
    return built_runtime.name


@pytest.fixture(scope="session")
def operator_image(built_operator, cluster) -> str:
    """Name of the operator's image, which every node has."""
    cluster.load(built_operator.archive)
    return built_operator.name


@pytest.fixture(scope="session")
def definitions(cluster) -> Iterator[None]:
    """The API server knows our kinds."""
    cluster.helm("upgrade", "--install", "penstock-crds", str(CHARTS / "penstock-crds"), "--wait")
    yield
    cluster.helm("uninstall", "penstock-crds", "--ignore-not-found")


@pytest.fixture(scope="session")
def operator(cluster, definitions, operator_image, built_runtime) -> Iterator[str]:
    """The operator runs, as the chart installs it; its namespace. Who wants pods of services asks for their image."""
    names = {"image": operator_image, "runtime.image": built_runtime.name}
    values = [f"--set={value}.tag={name.rpartition(':')[2]}" for value, name in names.items()]
    values.append("--set=keda.enabled=true")  # the other port, for external metrics, needs an API of the whole cluster
    if cluster.cut_off is not None:
        values.append(f"--set=nodeSelector.{HOST_LABEL}=node-1")  # the other one is cut off
    metadata = {"name": SYSTEM, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    where = ("penstock", str(CHARTS / "penstock"), "--namespace", SYSTEM)
    done = cluster.run("helm", "upgrade", "--install", *where, "--wait", "--timeout=90s", *values)
    words = (("get", "pods", "-o", "wide"), ("logs", "deployment/penstock", "--tail=60"), ("get", "events"))
    seen = "\n".join(cluster.run("kubectl", *each, "-n", SYSTEM).stdout for each in words if done.returncode)
    assert done.returncode == 0, f"{done.stderr}\n{seen}"
    yield SYSTEM
    cluster.helm("uninstall", "penstock", "--namespace", SYSTEM, "--wait")
    cluster.kubectl("wait", "--for=delete", "pods", "--all", "-n", SYSTEM, "--timeout=60s")
    cluster.kubectl("delete", "leases", "--all", "-n", SYSTEM)


def load_into_kind(archive: Path) -> None:
    subprocess.run(("kind", "load", "image-archive", str(archive), "--name", KIND_CLUSTER), check=True)


@pytest.fixture
def namespace(cluster) -> Iterator[str]:
    """A namespace of the test's own, where only pods of the restricted Pod Security Standard may run."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
