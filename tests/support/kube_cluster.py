"""A Kubernetes cluster as tests use it, wherever it runs: kubectl, helm, and a way to reach its Services."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """`programs`: the folder of kubectl and helm, empty where they are in the PATH."""

    kubeconfig: Path
    programs: str
    is_reachable: bool  # Services answer at their own addresses
    load: Callable[[Path], None]  # bring an image's archive to the nodes
    audit: Path | None = None  # where the API server notes what the operator asks it
    cut_off: Callable[[int], AbstractContextManager[None]] | None = None  # nothing reaches that node (1, 2) meanwhile

    def environment(self) -> dict[str, str]:
        """Of programs that talk to the cluster."""
        path = os.pathsep.join(filter(None, (self.programs, os.environ["PATH"])))
        return os.environ | {"KUBECONFIG": str(self.kubeconfig), "PATH": path}

    def run(self, *words: str, text: str | None = None, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """A program with this cluster's kubeconfig; `text` is its standard input."""
        return subprocess.run(
            words, env=self.environment(), input=text, capture_output=True, text=True, timeout=seconds, check=False
        )

    def kubectl(self, *words: str, text: str | None = None, seconds: float = 120) -> str:
        """What kubectl answers; it must go well."""
        done = self.run("kubectl", *words, text=text, seconds=seconds)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}{done.stdout}"
        return done.stdout

    def helm(self, *words: str, seconds: float = 180) -> str:
        """What helm answers; it must go well."""
        done = self.run("helm", *words, seconds=seconds)
        assert done.returncode == 0, f"helm {' '.join(words)}: {done.stderr}{done.stdout}"
        return done.stdout

    def apply(self, *manifests: dict[str, Any] | str) -> str:
        """`kubectl apply` of objects, or of YAML."""
        texts = [each if isinstance(each, str) else json.dumps(each) for each in manifests]
        return self.kubectl("apply", "-f", "-", text="\n---\n".join(texts))

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        """One object."""
        answer: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return answer

    def items(self, kind: str, namespace: str, *words: str) -> list[dict[str, Any]]:
        """Objects of a kind in a namespace; words such as -l and a selector."""
        answer: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, "-n", namespace, *words, "-o", "json"))[
            "items"
        ]
        return answer

    @contextmanager
    def reach(self, namespace: str, service: str, port: int = 80) -> Iterator[str]:
        """A URL at which a Service answers, from here."""
        if self.is_reachable:
            address = self.get("service", service, namespace)["spec"]["clusterIP"]
            yield f"http://{address}:{port}"
            return
        words = ("kubectl", "port-forward", "-n", namespace, f"service/{service}", f":{port}")
        with subprocess.Popen(words, env=self.environment(), stdout=subprocess.PIPE, text=True) as forwarder:
            try:
                assert forwarder.stdout is not None
                local = FORWARDING.search(forwarder.stdout.readline())
                assert local, f"kubectl port-forward to {service} failed"
                yield f"http://127.0.0.1:{local[1]}"
            finally:
                forwarder.terminate()


def wait_until(is_so: Callable[[], Any], seconds: float, what: str | Callable[[], str]) -> Any:
    """What `is_so` answers once that is true; fails with `what` after some time."""
    deadline = time.monotonic() + seconds
    while not (answer := is_so()):
        assert time.monotonic() < deadline, f"after {seconds:g} s: {what if isinstance(what, str) else what()}"
        time.sleep(0.25)
    return answer
