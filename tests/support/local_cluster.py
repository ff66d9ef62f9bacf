"""A Kubernetes on this machine for one test run, from the programs of `cluster-tools`.

They are found through `PENSTOCK_CLUSTER_TOOLS`, else in `../shared/cluster-tools` beside the checkout. The cluster has
a network of its own, which leads nowhere; the thread of the tests enters it, so that pods and Services answer there.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TOOLS_VARIABLE = "PENSTOCK_CLUSTER_TOOLS"
STATE_PREFIX = "penstock-cluster-"  # then the number of the process that owns it
NEEDED = ("ip", "nft", "openssl", "nsenter", "xz")
AUDITED = "system:serviceaccount:penstock-system:penstock"  # the operator, as the chart installs it
UNREACHABLE_SECONDS = 20  # without a sign of life of a node; Kubernetes' own 50 would make a test long
CLONE_NEWNET = 0x40000000

Flags = Mapping[str, Sequence[str]]  # further ones of programs such as kube-controller-manager


def find_tools() -> Path | None:
    """The folder with the program `cluster`, or None."""
    chosen = os.environ.get(TOOLS_VARIABLE)
    folder = Path(chosen) if chosen else ROOT.parent / "shared/cluster-tools"
    return folder if (folder / "cluster").exists() else None


def why_not() -> str:
    """Why no cluster can be started here; empty: it can."""
    if find_tools() is None:
        return f"no cluster-tools ({TOOLS_VARIABLE} is not set): with Docker, `make kind-up` and --cluster=kind"
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        return f"{', '.join(missing)} missing: install iproute2, nftables, openssl, util-linux, xz-utils"
    if os.geteuid() != 0:
        return "a cluster on this machine needs root: with Docker, `make kind-up` and --cluster=kind"
    return ""


def tool(name: str) -> str | None:
    """kubectl or helm, of the PATH or of the tools."""
    if (installed := shutil.which(name)) is not None:
        return installed
    tools = find_tools()
    if tools is None or shutil.which("xz") is None:
        return None
    done = subprocess.run([tools / "cluster", "bin"], capture_output=True, text=True)
    return f"{done.stdout.strip()}/{name}" if done.returncode == 0 else None


class LocalCluster:
    """One cluster. `with running(…)` starts and stops it."""

    def __init__(self, tools: Path, owner: int, flags: Flags | None = None) -> None:
        self.state = Path(tempfile.gettempdir()) / f"{STATE_PREFIX}{owner}"
        self.kubeconfig = self.state / "admin.kubeconfig"
        self.programs = self.state / "programs"  # kubectl, helm and others
        self.audit_log = self.state / "audit.log"  # requests of `AUDITED`, an event in each line
        self._script, self._flags = tools / "cluster", dict(flags or {})
        self._net = f"k{owner:x}"  # prefix of its links and namespaces, which have at most 15 letters

    @property
    def pods(self) -> Path:
        """The network namespace in which pods and Services answer."""
        return Path("/run/netns") / f"{self._net}cp"

    def start(self, num_nodes: int) -> None:
        """Returns when the nodes are ready."""
        self._provide_programs()
        self._run("up", "--nodes", str(num_nodes))
        if num_nodes > 1:  # names are to be found while the others are cut off
            home = json.dumps({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node-1"}}}}})
            self._kubectl("patch", "deployment/coredns", "-n", "kube-system", "-p", home)
            self._kubectl("rollout", "status", "deployment/coredns", "-n", "kube-system", "--timeout=60s")

    def stop(self) -> None:
        """Stop everything and remove it."""
        self._run("down")

    def load(self, archive: Path) -> None:
        """Import a container image into every node."""
        self._run("load", str(archive))

    @contextmanager
    def cut_off(self, node: int) -> Iterator[None]:
        """Nothing leaves or reaches a node meanwhile. The first is node 1."""
        self._set_link(node, "down")
        try:
            yield
        finally:
            self._set_link(node, "up")

    def _set_link(self, node: int, state: str) -> None:
        words = ("ip", "netns", "exec", self.pods.name, "ip", "link", "set", f"{self._net}v{node}", state)
        subprocess.run(words, check=True)

    def start_keda(self) -> None:
        """The real KEDA, beside the control plane."""
        self._run("keda")

    def stop_keda(self) -> None:
        """End its processes; what it has in the API server stays."""
        for name in ("keda-operator", "keda-adapter"):
            os.kill(int((self.state / "pid" / name).read_text()), signal.SIGTERM)

    def _provide_programs(self) -> None:
        """Those of the tools, but for an API server that notes what the operator asks it, and shorter waits."""
        originals = Path(self._run("bin"))
        self.programs.mkdir(parents=True)
        for original in originals.iterdir():
            if original.name != "kube":
                (self.programs / original.name).symlink_to(original)
        policy, kube = self.state / "audit.json", self.programs / "kube"
        rules = [{"level": "Metadata", "users": [AUDITED], "omitStages": ["RequestReceived"]}, {"level": "None"}]
        policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
        flags = {
            "kube-apiserver": f"--audit-policy-file={policy} --audit-log-path={self.audit_log}",
            "kube-controller-manager": f"--node-monitor-grace-period={UNREACHABLE_SECONDS}s",
        }
        for program, more in self._flags.items():
            flags[program] = " ".join((flags.get(program, ""), *more))
        cases = "\n".join(f'{program}) set -- "$@" {more} ;;' for program, more in flags.items())
        kube.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}\nesac\nexec {originals / "kube"} "$@"\n')
        kube.chmod(0o755)

    def _kubectl(self, *words: str) -> None:
        command = ("ip", "netns", "exec", self.pods.name, self.programs / "kubectl", *words)
        subprocess.run(command, env=os.environ | {"KUBECONFIG": str(self.kubeconfig)}, check=True, capture_output=True)

    def _run(self, *words: str) -> str:
        """One command of `cluster`; raises with what it said. What it starts keeps no pipe of ours open."""
        environment = os.environ | {"STATE": str(self.state), "NET": self._net}
        if self.programs.is_dir():
            environment["BIN"] = str(self.programs)
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            done = subprocess.run([self._script, *words], env=environment, stdout=output, stderr=errors, check=False)
            output.seek(0), errors.seek(0)
            assert done.returncode == 0, f"cluster {' '.join(words)}: {errors.read()}"
            return output.read().strip()


@contextmanager
def running(num_nodes: int = 1, flags: Flags | None = None) -> Iterator[LocalCluster]:
    """A started cluster, in whose network the calling thread and those that it starts are."""
    tools = find_tools()
    assert tools is not None
    clear_orphans(tools)
    cluster = LocalCluster(tools, os.getpid(), flags)
    try:
        cluster.start(num_nodes)
        with inside(cluster.pods):
            yield cluster
    finally:
        cluster.stop()


def clear_orphans(tools: Path) -> None:
    """Remove what killed test runs left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{STATE_PREFIX}*"):
        owner = folder.name.removeprefix(STATE_PREFIX)
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            LocalCluster(tools, int(owner)).stop()


@contextmanager
def inside(namespace: Path) -> Iterator[None]:
    """This thread, and threads and processes that it starts, are in another network meanwhile."""
    with Path("/proc/thread-self/ns/net").open() as home, namespace.open() as there:
        enter(there.fileno())
        try:
            yield
        finally:
            enter(home.fileno())


def enter(descriptor: int) -> None:
    """Move this thread into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
