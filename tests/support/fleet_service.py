"""A whole service of real processes: a router, prefill pods and decode pods, on loopback or in network namespaces."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.internal.credentials import ClusterKeys, query_claims
from penstock.internal.fleet import FLEET_PATH
from penstock.internal.protocol import LOAD_PATH
from support.fleet_program import Keeper, Program
from support.history import History, pod_problems
from support.serving import free_port

WORKER = ("--dtype", "float32", "--threads", "1", "--kv-cache-memory", "256MiB", "--served-model-name", "m")
TRANSFER = ("--kv-checksums", "1")
START_SECONDS = 120.0
NUM_TENANTS = 1000
QUIET_SECONDS = 15.0  # within which an idle service has given everything back


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a program runs and can be reached."""

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


LOOPBACK = Place()


class Pod:
    """One `penstock serve`."""

    def __init__(self, name: str, role: str, place: Place, folder: Path, keys: ClusterKeys, words: Sequence[str]):
        self.name, self.role, self._keys = name, role, keys
        self.port, self.internal_port = free_port(), free_port()
        self.url = f"http://{place.address}:{self.port}"
        self.internal = f"{place.address}:{self.internal_port}"
        hosts = ("--host", place.address, "--internal-host", place.address)
        ports = ("--port", str(self.port), "--internal-port", str(self.internal_port))
        self.program = Program(
            name=name,
            words=("serve", "--role", role, "--pod-name", name, *hosts, *ports, *words),
            log=folder / f"{name}.log",
            prefix=place.prefix,
        )

    def load(self) -> dict:
        """What `GET /internal/v1/load` says; raises `OSError` if it does not answer."""
        token = self._keys.sign(query_claims(LOAD_PATH))
        request = urllib.request.Request(f"http://{self.internal}{LOAD_PATH}", headers={"Authorization": token})
        with urllib.request.urlopen(request, timeout=5) as reply:
            return json.load(reply)

    def metrics(self) -> dict[str, float]:
        """Samples summed over their labels."""
        samples: dict[str, float] = {}
        for line in fetch(f"http://{self.internal}/metrics").splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                samples[name] = samples.get(name, 0.0) + float(value)
        return samples

    @property
    def num_prefills(self) -> int:
        """Prompts that peers had computed here: counted at once, unlike what `load` says of the engine."""
        return int(self.metrics()["penstock_prefill_calls_total"])

    @property
    def is_ready(self) -> bool:
        return status(f"http://{self.internal}/readyz") == 200

    @property
    def is_idle(self) -> bool:
        try:
            return not pod_problems([self.load()], [])
        except (OSError, ValueError):
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a service is made of; words are more flags of its programs."""

    prefill: Sequence[Place] = (LOOPBACK,)
    decode: Sequence[Place] = (LOOPBACK, LOOPBACK)
    num_routers: int = 1
    pod_words: Sequence[str] = ()
    prefill_words: Sequence[str] = ()
    decode_words: Sequence[str] = ()
    router_words: Sequence[str] = ()
    prefillers: Sequence[str] | None = None  # other addresses for decode pods to ask than those of the prefill pods
    settings: Mapping[str, str] = field(default_factory=dict)  # of the pods' environment
    refused: Sequence[str] = ()  # names of pods that the router does not take


class Service:
    """Routers, prefill pods and decode pods; `with running(…)` starts and stops it."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.key_file = folder / "cluster.key"
        self.key_file.write_text("a key for this test only\n")
        self.keys = ClusterKeys(self.key_file)
        self._common = ("--cluster-key-file", str(self.key_file))
        self.prefills = [
            self._build_pod("prefill", i, place, plan.prefill_words) for i, place in enumerate(plan.prefill)
        ]
        addresses = [pod.internal for pod in self.prefills] if plan.prefillers is None else plan.prefillers
        prefillers = ("--prefillers", ",".join(addresses)) if addresses else ()
        words = (*prefillers, *plan.decode_words)
        self.decodes = [self._build_pod("decode", i, place, words) for i, place in enumerate(plan.decode)]
        self.keys_file = folder / "keys.txt"
        self.keys_file.write_text("".join(f"tenant-{n}:key-{n:04}\n" for n in range(NUM_TENANTS)))
        self._num_tenants = 0
        self.references = History()
        self.ports = [free_port() for _ in range(plan.num_routers)]
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self.url = self.urls[0]
        self.routers = [self._build_router(i, port) for i, port in enumerate(self.ports)]
        self._keeper = Keeper(self.programs)

    @property
    def programs(self) -> list[Program]:
        """Pods and routers."""
        return [*(pod.program for pod in self.pods), *self.routers]

    @property
    def worker_words(self) -> tuple[str, ...]:
        """How its pods compute."""
        return (*WORKER, *TRANSFER, *self.plan.pod_words)

    def _build_pod(self, role: str, number: int, place: Place, words: Sequence[str]) -> Pod:
        pod = Pod(f"{role}-{number}", role, place, self.folder, self.keys, (*self.worker_words, *self._common, *words))
        pod.program.settings = self.plan.settings
        return pod

    def _build_router(self, number: int, port: int) -> Program:
        pods = ("--decode", ",".join(pod.internal for pod in self.decodes))
        if self.prefills:
            pods += ("--prefill", ",".join(pod.internal for pod in self.prefills))
        words = ("route", "--port", str(port), "--api-keys-file", str(self.keys_file), *self._common, *pods)
        log = self.folder / f"router-{number}.log"
        return Program(name=f"router-{number}", words=(*words, *self.plan.router_words), log=log)

    @property
    def pods(self) -> list[Pod]:
        return [*self.prefills, *self.decodes]

    def new_key(self) -> str:
        """The API key of a tenant for whom nothing is cached yet."""
        self._num_tenants += 1
        return f"key-{self._num_tenants - 1:04}"

    def start(self) -> None:
        self._keeper.start()

    def end(self) -> None:
        self._keeper.end()

    def fleet(self) -> dict:
        return json.loads(fetch(self.url + FLEET_PATH))

    @property
    def is_settled(self) -> bool:
        """Every program serves, and the router knows."""
        try:
            states = {endpoint["name"]: endpoint["state"] for endpoint in self.fleet()["endpoints"]}
        except (OSError, ValueError):
            return False
        is_up = all(pod.is_ready for pod in self.pods) and all(status(url + "/readyz") == 200 for url in self.urls)
        return is_up and states == {
            pod.name: "refused" if pod.name in self.plan.refused else "ready" for pod in self.pods
        }

    def wait_settled(self) -> None:
        """`settle`, for those who have no event loop."""
        began = time.monotonic()
        while not self.is_settled:
            assert time.monotonic() - began < START_SECONDS, f"the service does not settle:\n{self.tails()}"
            time.sleep(0.1)

    async def settle(self, seconds: float = START_SECONDS) -> float:
        """Wait until it is settled; returns how long that took."""
        return await until(lambda: self.is_settled, seconds, lambda: f"the service to settle:\n{self.tails()}")

    async def check_quiet(self, seconds: float = QUIET_SECONDS) -> float:
        """Everything that was held for requests is given back, in every pod."""
        took = await until(
            lambda: all(pod.is_idle for pod in self.pods),
            seconds,
            lambda: f"idle pods: {pod_problems([pod.load() for pod in self.pods], [])}",
        )
        found = pod_problems([pod.load() for pod in self.pods], [pod.metrics() for pod in self.pods])
        assert not found, found
        return took

    def transfers(self, key: str) -> int:
        """A total over the decode pods that answer."""
        return sum(pod.load()["transfers"][key] for pod in self.decodes)

    def tails(self, length: int = 1500) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {each.name}\n{each.said()[-length:]}" for each in self.programs if each.log.exists())


@contextmanager
def running(folder: Path, **plan: Any) -> Iterator[Service]:
    """A service that is up, with the fields of a `Plan`; all of it is gone afterwards."""
    service = Service(folder, Plan(**plan))
    service.start()
    try:
        service.wait_settled()
        yield service
    finally:
        service.end()


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as reply:
        return reply.read().decode()


def status(url: str) -> int:
    """HTTP status; 0 if nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


async def until(
    condition: Callable[[], object], seconds: float, what: Callable[[], str] | str = "", *, pause: float = 0.1
) -> float:
    """Wait for something, asked on another thread so that clients go on hearing; returns how long it took."""
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        waited = time.monotonic() - began
        assert waited < seconds, f"waited {seconds} s for {what if isinstance(what, str) else what()}"
        await asyncio.sleep(pause)
    return time.monotonic() - began
