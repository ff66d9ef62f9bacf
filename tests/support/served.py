"""An InferenceService in a cluster, as its owner and its clients see it."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from support.arrivals import Arrivals, arriving, new_prompt
from support.fleet_client import ask
from support.fleet_requests import long_prompts
from support.history import Asked, History
from support.kube_cluster import Cluster, wait_until

READY_SECONDS = 150.0


class Served:
    """One service, by its name and namespace."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self.cluster, self.namespace, self.name = cluster, namespace, name
        self._references, self._pages = History(), itertools.count()

    def get(self) -> dict[str, Any]:
        return self.cluster.get("inferenceservice", self.name, self.namespace)

    def condition(self, kind: str) -> dict[str, str]:
        """A condition of the status; empty if it is not there."""
        conditions = self.get().get("status", {}).get("conditions", ())
        return next((each for each in conditions if each["type"] == kind), {})

    @property
    def is_settled(self) -> bool:
        """True if the operator has seen the newest spec, and all of it is so."""
        found = self.get()
        status = found.get("status", {})
        states = {each["type"]: each["status"] for each in status.get("conditions", ())}
        is_seen = status.get("observedGeneration") == found["metadata"]["generation"]
        return is_seen and states.get("Ready") == "True" and states.get("Reconciling", "False") == "False"

    def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        wait_until(lambda: self.is_settled, seconds, self.story)

    def pods(self, role: str) -> list[dict[str, Any]]:
        """Of a role or of the router, without those that end."""
        selector = f"penstock.dev/service={self.name},app.kubernetes.io/component={role}"
        found = self.cluster.items("pods", self.namespace, "-l", selector)
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def names(self, role: str) -> set[str]:
        """Of the pods of a role."""
        return {pod["metadata"]["name"] for pod in self.pods(role)}

    def places(self, role: str) -> set[str]:
        """The nodes on which a role has pods."""
        return {pod["spec"].get("nodeName", "") for pod in self.pods(role)}

    def fleet(self) -> dict[str, Any]:
        """Its pods as its router sees them."""
        with self.cluster.reach(self.namespace, self.name) as url, urllib.request.urlopen(f"{url}/fleet") as answer:
            told: dict[str, Any] = json.load(answer)
            return told

    def patch(self, spec: dict[str, Any]) -> None:
        """Change a part of the spec."""
        words = ("patch", "inferenceservice", self.name, "-n", self.namespace, "--type=merge", "-p")
        self.cluster.kubectl(*words, json.dumps({"spec": spec}))

    def nudge(self) -> None:
        """Have the operator look at it at once; nothing of it changes."""
        words = (
            "annotate",
            "inferenceservice",
            self.name,
            "-n",
            self.namespace,
            "--overwrite",
            f"looked={uuid.uuid4()}",
        )
        self.cluster.kubectl(*words)

    def scale(self, role: str, replicas: int) -> None:
        """As a person would."""
        scaler = f"rolescaler/{self.name}-{role}"
        self.cluster.kubectl("scale", scaler, "-n", self.namespace, f"--replicas={replicas}")

    def metric(self, role: str, name: str) -> float:
        """A metric's samples, summed over the pods of a role."""
        total = 0.0
        for pod in self.pods(role):
            path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}:8001/proxy/metrics"
            lines = self.cluster.kubectl("get", "--raw", path).splitlines()
            total += sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
        return total

    def num_ready(self, role: str) -> int:
        """Pods that take requests, as the status has it."""
        count: int = self.get()["status"]["roles"][role]["ready"]
        return count

    def request(self, role: str) -> int:
        """How many pods its RoleScaler asks for."""
        count: int = self.cluster.get("rolescaler", f"{self.name}-{role}", self.namespace)["spec"]["replicas"]
        return count

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """Of the autoscaler, newest first."""
        told: list[dict[str, Any]] = self.get().get("status", {}).get("autoscaling", {}).get("lastDecisions", [])
        return told

    def story(self) -> str:
        """What there is to see of it, for whoever reads a failed test."""
        status = json.dumps(self.get().get("status", {}), indent=1)
        words = (("get", "all,rolescalers"), ("get", "events"), ("logs", "-l", f"penstock.dev/service={self.name}"))
        seen = [self.cluster.run("kubectl", *each, "-n", self.namespace).stdout[-6000:] for each in words]
        operator = "app.kubernetes.io/name=penstock-operator"
        logs = self.cluster.run("kubectl", "logs", "-A", "-l", operator, "--tail=60").stdout
        return "\n".join((status, *seen, logs))

    def ask(self, requests: Sequence[Asked], width: int = 4) -> History:
        """The answers to some requests in peace, which is how they are to be answered ever after."""

        async def all_of_them(url: str) -> None:
            gate = asyncio.Semaphore(width)

            async def one(asked: Asked) -> None:
                async with gate:
                    heard = await ask(url, asked)
                self._references.refer(heard)

            await asyncio.gather(*(one(asked) for asked in requests))

        with self.cluster.reach(self.namespace, self.name) as url:
            asyncio.run(all_of_them(url))
        return self._references

    @contextmanager
    def under_arrivals(self) -> Iterator[Arrivals]:
        """New prompts arrive at a pace, and each must be answered to its end."""
        history = self._references.begin()
        with (
            self.cluster.reach(self.namespace, self.name) as url,
            arriving(url, lambda: new_prompt(next(self._pages)), history) as arrivals,
        ):
            yield arrivals

    @contextmanager
    def under_load(self, requests: Sequence[Asked], width: int = 3) -> Iterator[History]:
        """Clients ask these again and again, `width` at a time, and each of them must hear what it did in peace."""
        self.ask([asked for asked in requests if not self._references.knows(asked.name)])
        history, is_over = self._references.begin(), threading.Event()
        with self.cluster.reach(self.namespace, self.name) as url:
            clients = Clients(url, requests, history, is_over.is_set)
            threads = [threading.Thread(target=clients.run, args=(number,)) for number in range(width)]
            for thread in threads:
                thread.start()
            try:
                yield history
            finally:
                is_over.set()
                for thread in threads:
                    thread.join()
        history.check()


class Clients:
    """Each in a thread of its own, with a connection for each request."""

    def __init__(self, url: str, requests: Sequence[Asked], history: History, is_over: Callable[[], bool]) -> None:
        self._url, self._requests, self._history, self._is_over = url, requests, history, is_over

    def run(self, number: int) -> None:
        while not self._is_over():
            self._history.add(asyncio.run(ask(self._url, self._requests[number % len(self._requests)])))
            number += 1


def some_prompts() -> list[Asked]:
    """Long enough to be worth a prefill pod, and long enough in their answers for something to happen meanwhile."""
    return long_prompts(4, sentences=24, max_tokens=60)
