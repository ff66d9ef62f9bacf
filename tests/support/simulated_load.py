"""A service in simulation: prompts queue at prefill pods, answers hold KV cache at decode pods, new pods take time."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field

import msgspec

from penstock_operator.api.v1alpha1 import InferenceServiceSpec
from penstock_operator.autoscale.decide import Verdict, decide, window_seconds
from penstock_operator.autoscale.history import History
from penstock_operator.autoscale.signals import PodLoad, RoleLoad, Signals
from penstock_operator.names import Key
from penstock_operator.service import Service

TICK = 0.1  # seconds
SCRAPE = 2.0  # seconds


def a_service(**spec) -> Service:
    """An InferenceService of two roles, with these parts of its spec."""
    whole = {
        "model": {"source": "hf://a/b"},
        "prefill": {},
        "decode": {},
        "connector": {"type": "nixl"},
        "autoscaling": {"mode": "Builtin", "prefill": {"max": 20}, "decode": {"max": 20}},
    } | spec
    return Service(
        key=Key("default", "chat"),
        uid="1",
        generation=1,
        labels={},
        annotations={},
        spec=msgspec.convert({name: part for name, part in whole.items() if part is not None}, InferenceServiceSpec),
        status={},
    )


@dataclass
class Pod:
    """One of a role."""

    name: str
    ready_at: float
    queue: list[float] = field(default_factory=list)  # tokens left of each prompt
    answers: list[float] = field(default_factory=list)  # when each ends
    waiting: list[float] = field(default_factory=list)  # seconds of each that found no room
    prefilled: float = 0.0
    produced: float = 0.0


@dataclass
class SimulatedLoad:
    """The world: `arrivals` requests per second, each of `prompt` tokens and `answer_seconds` of decoding."""

    service: Service
    rng: random.Random
    current: dict[str, int]
    arrivals: float
    start_seconds: float = 40.0
    prompt: float = 1000.0
    rate: float = 5000.0  # prompt tokens/s of a pod
    answer_seconds: float = 10.0
    places: int = 20  # answers that fill a decode pod's KV cache
    is_random: bool = True
    now: float = 1_000_000.0
    changes: list[tuple[float, str, int, int]] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self.history, self.names, self.held, self.completed = History(), itertools.count(), 0, 0
        self.pods = {
            role: [Pod(f"{role}-{next(self.names)}", self.now) for _ in range(number)]
            for role, number in self.current.items()
        }
        self.began, self.due = self.now, 0.0
        self.verdict: Verdict | None = None

    def run(self, seconds: float) -> None:
        """So much time passes."""
        for tick in range(round(seconds / TICK)):
            self.step()
            if tick % round(SCRAPE / TICK) == 0:
                self.look()

    def look(self) -> None:
        """The autoscaler's turn."""
        self.history.add(self.signals(), self.service.spec, window_seconds(self.service.spec.autoscaling))
        self.verdict = decide(self.service, self.history, self.current, dict.fromkeys(self.current, 1), self.now)
        for role, number in self.verdict.targets.items():
            if number != self.current[role]:
                self.changes.append((self.now - self.began, role, self.current[role], number))
                self.scale(role, number)

    def scale(self, role: str, number: int) -> None:
        """New pods start; who goes was drained before, so what it had is finished."""
        pods = self.pods[role]
        pods += [Pod(f"{role}-{next(self.names)}", self.now + self.start_seconds) for _ in range(number - len(pods))]
        pods.sort(key=lambda pod: (pod.ready_at > self.now, len(pod.queue) + len(pod.answers)))
        gone, self.pods[role], self.current[role] = pods[number:], pods[:number], number
        for pod in gone:
            for tokens in pod.queue:
                self.dispatch("prefill", lambda to, tokens=tokens: to.queue.append(tokens))

    def ready(self, role: str) -> list[Pod]:
        """Pods that work."""
        return [pod for pod in self.pods[role] if pod.ready_at <= self.now]

    def dispatch(self, role: str, give) -> None:
        """To the pod with the least to do."""
        ready = self.ready(role)
        if ready:
            give(min(ready, key=lambda pod: (sum(pod.queue), len(pod.answers) + len(pod.waiting))))
        else:
            self.held += 1

    def step(self) -> None:
        """One tick."""
        self.now += TICK
        for _ in range(self.num_arriving()):
            self.dispatch("prefill", lambda pod: pod.queue.append(self.prompt))
        for _ in range(self.held if self.ready("prefill") else 0):
            self.held -= 1
            self.dispatch("prefill", lambda pod: pod.queue.append(self.prompt))
        for pod in self.ready("prefill"):
            room = self.rate * TICK
            while pod.queue and room > 0:
                done = min(room, pod.queue[0])
                room, pod.queue[0] = room - done, pod.queue[0] - done
                pod.prefilled += done
                if pod.queue[0] <= 0:
                    pod.queue.pop(0)
                    self.dispatch("decode", lambda to: to.waiting.append(self.answer_seconds))
        for pod in self.ready("decode"):
            self.completed += sum(end <= self.now for end in pod.answers)
            pod.answers = [end for end in pod.answers if end > self.now]
            while pod.waiting and len(pod.answers) < self.places:
                pod.answers.append(self.now + pod.waiting.pop(0))
            pod.produced += len(pod.answers) * TICK / 0.05

    def num_arriving(self) -> int:
        """Poisson or even."""
        if self.is_random:
            chance, count = math.exp(-self.arrivals * TICK), 0
            product = self.rng.random()
            while product > chance:
                count, product = count + 1, product * self.rng.random()
            return count
        self.due += self.arrivals * TICK
        count, self.due = int(self.due), self.due % 1
        return count

    def signals(self) -> Signals:
        """What the scrape would say."""
        roles = {}
        for role in self.pods:
            ready = self.ready(role)
            roles[role] = RoleLoad(
                pods={pod.name: self.load_of(pod) for pod in ready},
                num_starting=len(self.pods[role]) - len(ready),
                missing=(),
            )
        busy = sum(len(pod.queue) + len(pod.answers) + len(pod.waiting) for role in self.pods.values() for pod in role)
        return Signals(
            at=self.now,
            roles=roles,
            has_router=True,
            is_router_missing=False,
            held=self.held,
            in_flight=busy + self.held,
            finished=self.completed,
            rejected=0,
        )

    def load_of(self, pod: Pod) -> PodLoad:
        """One pod's words."""
        return PodLoad(
            running=len(pod.answers) + bool(pod.queue),
            waiting=len(pod.waiting) + max(0, len(pod.queue) - 1),
            queued_tokens=round(sum(pod.queue)),
            kv_usage=min(1.0, len(pod.answers) / self.places),
            prefill_rate=self.rate,
            prompt_tokens=round(pod.prefilled),
            output_tokens=round(pod.produced),
            max_num_seqs=256,
        )

    def reversals(self, role: str) -> list[float]:
        """Times at which it went the other way than before, seconds since the beginning."""
        signs = [(at, after > before) for at, whose, before, after in self.changes if whose == role]
        return [at for (_, way), (at, other) in itertools.pairwise(signs) if way != other]
