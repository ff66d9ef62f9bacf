"""How many pods the present work would keep busy: one number per role, in pods, from what its pods say. Pure.

Every figure is absolute, not relative to the pods that are there: asking again while new pods start asks for no more.
The queue counts by what it will be: work arrives at `busy pods + growth of the queue`, and what has piled up beyond the
target is to be gone in `DRAIN_SECONDS`. KV cache, places and time between tokens are linear in the load as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from penstock_operator.api.v1alpha1 import InferenceServiceSpec
from penstock_operator.autoscale.moment import Moment
from penstock_operator.duration import parse_duration
from penstock_operator.names import PREFILL

SMOOTH_SECONDS = 10.0  # over which gauges are averaged: a single burst is no load
BUSY_SECONDS = 60.0  # over which the share of busy time is taken; `History` keeps as much
DRAIN_SECONDS = 30.0
BUSY_TARGET = 0.75  # share of time in which a pod computes prompts: queues grow without bound towards 1
SLOTS_TARGET = 0.9  # share of --max-num-seqs
FULL = 0.9  # share of its target from which on what waits is taken to wait for room
FEWEST_SHARED = 2.0  # running requests per pod, below which more pods would not make tokens come faster

QUEUE, BUSY, KV, SLOTS, ITL = "queueSeconds", "busyPercent", "kvUtilizationPercent", "requestsPercent", "itlSeconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a role needs."""

    pods: float
    signal: str  # what says so
    value: float  # of the signal, per pod
    target: float  # of the same, per pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What a role's pods should be like."""

    queue_seconds: float
    kv: float | None  # share; None for prefill pods, which hold blocks only until they are fetched
    itl: float | None  # seconds

    @classmethod
    def of(cls, spec: InferenceServiceSpec, role: str) -> Targets:
        """What the spec says, else half of the promised time to first token, else one second."""
        scaling, slo = spec.autoscaling, spec.slo
        prefill = None if scaling is None else scaling.prefill
        decode = None if scaling is None else scaling.decode
        ttft = None if slo is None or slo.ttft is None else parse_duration(slo.ttft)
        queue: float = 1.0 if not ttft else ttft / 2
        if role == PREFILL:
            if prefill is not None and prefill.target_queue_seconds is not None:
                queue = prefill.target_queue_seconds
            return cls(queue_seconds=queue, kv=None, itl=None)
        percent = 80 if decode is None or decode.target_kv_utilization is None else decode.target_kv_utilization
        itl = None if slo is None or slo.itl is None else parse_duration(slo.itl)
        return cls(queue_seconds=queue, kv=percent / 100, itl=itl or None)


def demand_of(moments: Sequence[Moment], targets: Targets) -> Demand | None:
    """The greatest of what the signals ask for; None where no pod is there to say anything. Oldest moment first."""
    if not moments or not moments[-1].num_pods:
        return None
    last = moments[-1]
    short = [moment for moment in moments if moment.at > last.at - SMOOTH_SECONDS]
    asked = [_queue(short, targets), _busy(moments)]
    if targets.kv is not None:
        asked += [_kv(short, targets.kv), _slots(short)]
        if targets.itl is not None:
            asked.append(_itl(short, targets.itl))
    return max((demand for demand in asked if demand is not None), key=lambda demand: demand.pods)


def _queue(short: Sequence[Moment], targets: Targets) -> Demand | None:
    first, last, target = short[0], short[-1], targets.queue_seconds
    queue, limit = fmean(moment.queue for moment in short), targets.queue_seconds * last.num_pods
    if queue <= limit:
        return None
    growth = max(0.0, last.queue - first.queue) / max(SMOOTH_SECONDS / 2, last.at - first.at)
    arriving = (_num_busy(short) or 0.0) + growth
    pods = arriving / BUSY_TARGET + (queue - limit) / DRAIN_SECONDS
    return Demand(pods=pods, signal=QUEUE, value=queue / last.num_pods, target=target)


def _busy(moments: Sequence[Moment]) -> Demand:
    """Nothing while it has not been watched long enough to tell a burst from a load."""
    is_known = moments[-1].at - moments[0].at >= BUSY_SECONDS / 2
    busy = (_num_busy(moments) or 0.0) if is_known else 0.0
    value = 100 * busy / moments[-1].num_pods
    return Demand(pods=busy / BUSY_TARGET, signal=BUSY, value=value, target=100 * BUSY_TARGET)


def _kv(short: Sequence[Moment], target: float) -> Demand:
    used, num_pods = fmean(moment.kv for moment in short), short[-1].num_pods
    running = fmean(moment.num_running for moment in short)
    if used >= FULL * target * num_pods and running:
        used += used / running * _num_short_of_room(short)
    return Demand(pods=used / target, signal=KV, value=100 * used / num_pods, target=100 * target)


def _slots(short: Sequence[Moment]) -> Demand | None:
    num_slots, num_pods = short[-1].num_slots, short[-1].num_pods
    if not num_slots:
        return None
    used = fmean(moment.num_running for moment in short)
    if used >= FULL * SLOTS_TARGET * num_slots:
        used += _num_short_of_room(short)
    share = used / num_slots
    return Demand(pods=share * num_pods / SLOTS_TARGET, signal=SLOTS, value=100 * share, target=100 * SLOTS_TARGET)


def _itl(short: Sequence[Moment], target: float) -> Demand | None:
    """Running requests times seconds, over the tokens that came of them: the mean time between tokens."""
    num_pods, tokens = short[-1].num_pods, sum(moment.tokens for moment in short)
    if not tokens or fmean(moment.num_running for moment in short) < FEWEST_SHARED * num_pods:
        return None
    value = sum(moment.num_running * moment.seconds for moment in short) / tokens
    return Demand(pods=num_pods * value / target, signal=ITL, value=value, target=target)


def _num_busy(moments: Sequence[Moment]) -> float | None:
    """Pods that compute prompts, on average; None if nothing lies between the moments."""
    seconds = sum(moment.seconds for moment in moments)
    return sum(moment.work for moment in moments) / seconds if seconds else None


def _num_short_of_room(short: Sequence[Moment]) -> float:
    """Requests that should be running too, of those that wait: what comes more than goes, and the backlog's share.

    By Little's law a request stays `running / finished per second`, and its place serves several within the time that
    the backlog has.
    """
    first, last, seconds = short[0], short[-1], sum(moment.seconds for moment in short)
    waiting, running = fmean(moment.num_waiting for moment in short), fmean(moment.num_running for moment in short)
    finished = sum(moment.finished for moment in short)
    if not finished or last.at <= first.at:
        return waiting
    stay = running * seconds / finished
    growth = max(0.0, (last.num_waiting - first.num_waiting) / (last.at - first.at))
    return min(waiting, growth * stay + waiting * min(1.0, stay / DRAIN_SECONDS))
