"""What the router adds: where it saturates, its latency at 80 % of that against the pods themselves, and 1,000 streams.

Pods are scripted: they send events at a steady pace and cost little. The router has one core for itself; pods and this
process share the others. An event tells when it was sent, so its age on arrival is known without a second clock.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.bench.own_process import OwnProcess
from penstock.bench.paced_pod import pod_command, request_bytes
from penstock.bench.report import Report, Row
from penstock.bench.stream_client import Door, Stream, poisson, stream_all
from penstock.commands.members import HOST, PENSTOCK, free_ports
from penstock.errors import ConfigError, PenstockError

NUM_PODS = 2
SHARE = 0.8  # of saturation, at which latency is measured
LATEST = 0.25  # seconds: 99 % of the events are younger than this, or the router is saturated
FIRST_RATE, GROWTH, NUM_BISECTIONS = 40.0, 1.5, 3
MUST = {"p50": 2.0, "p99": 10.0}  # milliseconds
LONG_EVENTS, LONG_PACE = 30, 0.4  # of each of the streams that run at once
RAMP_SECONDS = 3.0  # in which they begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """A router in front of scripted pods."""

    router: OwnProcess
    router_port: int
    pod_ports: list[int]

    def doors(self, is_direct: bool, num_events: int, pace: float) -> list[Door]:
        """Through the router, or at each pod itself."""
        ports = self.pod_ports if is_direct else [self.router_port]
        return [Door(host=HOST, port=port, request=request_bytes(num_events, pace)) for port in ports]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The streams of one measurement."""

    num_events: int
    pace: float  # seconds between two events
    seconds: float  # in which streams begin


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What a load cost the router."""

    busy: float  # share of its core
    events_per_second: float  # of its CPU time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this benchmark."""
    add = parser.add_argument
    add("--events", type=int, default=32, metavar="N", help="of a stream (default: 32)")
    add("--pace-ms", type=float, default=20.0, metavar="X", help="between two events of a stream (default: 20)")
    add("--seconds", type=float, default=5.0, metavar="X", help="of one measurement (default: 5)")
    add("--seeds", type=int, default=3, metavar="N", help="repetitions at 80 %% (default: 3)")
    add("--streams", type=int, default=1000, metavar="N", help="that run at once (default: 1000)")
    add("--json", type=Path, metavar="FILE", help="write the figures to FILE")


def run(options: argparse.Namespace) -> int:
    """Measure, print, write; returns the exit code: 1 if a stream was lost."""
    own, others = cores_of()
    shape = Shape(num_events=options.events, pace=options.pace_ms / 1000, seconds=options.seconds)
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, [own, *others])  # in the end
        os.sched_setaffinity(0, others)
        rig = start(stack, own, others)
        stream_all(rig.doors(False, 2, 0.0), poisson(FIRST_RATE, 1.0, 0))  # a warm-up
        rate, effort = saturation(lambda rate: sustain(rig, shape, rate))
        if not rate:
            raise PenstockError("the router did not even sustain the lowest rate: is this machine busy with others?")
        rows = saturation_rows(rate, shape, effort)
        rows += added_rows(*measure_added(rig, shape, SHARE * rate, options.seeds))
        together = run_together(rig, options.streams)
    rows.append(together)
    command = (
        f"penstock bench router --events {options.events} --pace-ms {options.pace_ms:g} --streams {options.streams}"
    )
    note = f"  # router pinned to core {own}, scripted pods and client to {','.join(map(str, others))}"
    Report(benchmark="router", command=command + note, rows=rows).publish(options.json)
    return int(together.value != together.limit)


def cores_of() -> tuple[int, list[int]]:
    """(the router's core, the others). Raises `ConfigError` on a machine with one core."""
    own, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise ConfigError("cores", "this benchmark needs two cores")
    return own, others


def start(stack: ExitStack, own: int, others: Sequence[int]) -> Rig:
    """Pods and a router, ready; they end with the stack."""
    router_port, *pod_ports = free_ports(1 + NUM_PODS)
    pods = [OwnProcess(pod_command(port), f"http://{HOST}:{port}/readyz", cores=others) for port in pod_ports]
    for pod in pods:
        stack.enter_context(pod).wait_ready()
    addresses = ",".join(f"{HOST}:{port}" for port in pod_ports)
    words = ["route", "--host", HOST, "--port", str(router_port), "--decode", addresses]
    router = stack.enter_context(OwnProcess([*PENSTOCK, *words], f"http://{HOST}:{router_port}/readyz", cores=[own]))
    router.wait_ready()
    return Rig(router=router, router_port=router_port, pod_ports=pod_ports)


def sustain(rig: Rig, shape: Shape, rate: float) -> Effort | None:
    """What `rate` streams per second cost the router; None if that was too much for it."""
    cpu, began = rig.router.cpu_seconds(), time.monotonic()
    streams = stream_all(rig.doors(False, shape.num_events, shape.pace), poisson(rate, shape.seconds, seed=1))
    cpu = rig.router.cpu_seconds() - cpu
    if not all(stream.is_whole(shape.num_events) for stream in streams) or is_late(streams):
        return None
    num_events = shape.num_events * len(streams)
    return Effort(busy=cpu / (time.monotonic() - began), events_per_second=num_events / max(cpu, 0.01))


def is_late(streams: Sequence[Stream]) -> bool:
    """True if more than one in a hundred events, or first events, took longer than `LATEST`."""
    waits = [[stream.first - stream.due for stream in streams], [age for stream in streams for age in stream.ages]]
    return any(not each or float(np.percentile(each, 99)) > LATEST for each in waits)


def saturation(sustain: Callable[[float], Effort | None]) -> tuple[float, Effort]:
    """(highest rate that is sustained, what it cost), by growth and bisection."""
    best, effort, rate = 0.0, Effort(busy=math.nan, events_per_second=math.nan), FIRST_RATE
    while (found := sustain(rate)) is not None:
        best, effort, rate = rate, found, rate * GROWTH
    low, high = best, rate
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        if (found := sustain(middle)) is None:
            high = middle
        else:
            low, effort = middle, found
    return low, effort


def measure_added(rig: Rig, shape: Shape, rate: float, num_seeds: int) -> tuple[list[dict[str, float]], ...]:
    """Latencies of each seed at the pods themselves, and through the router, in turns."""
    found: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for seed in range(num_seeds):
        arrivals = poisson(rate, shape.seconds, seed=100 + seed)
        for is_direct, figures in ((True, found[0]), (False, found[1])):
            figures.append(latencies(stream_all(rig.doors(is_direct, shape.num_events, shape.pace), arrivals)))
    return found


def latencies(streams: Sequence[Stream]) -> dict[str, float]:
    """Milliseconds by name: to the first event from the moment it was due, and of each event on its way."""
    firsts = [stream.first - stream.due for stream in streams if stream.stamps]
    ages = [age for stream in streams for age in stream.ages]
    return {
        f"{name} {share}": float(np.percentile(values, int(share[1:]))) * 1000 if values else math.nan
        for name, values in (("first event", firsts), ("event", ages))
        for share in MUST
    }


def added_rows(direct: Sequence[dict[str, float]], routed: Sequence[dict[str, float]]) -> list[Row]:
    """The difference of percentiles, median over the seeds."""
    rows = []
    for name in direct[0]:
        added = [there[name] - here[name] for here, there in zip(direct, routed, strict=True)]
        base = statistics.median(figures[name] for figures in direct)
        note = f"must <= the limit; {min(added):.2f} to {max(added):.2f}; {base:.2f} ms without the router"
        value = statistics.median(added)
        title = f"added at {SHARE:.0%} of saturation: {name}"
        rows.append(Row(name=title, value=value, unit="ms", limit=MUST[name[-3:]], note=note))
    return rows


def saturation_rows(rate: float, shape: Shape, effort: Effort) -> list[Row]:
    """Streams and events per second of one worker on one core."""
    note = f"{shape.num_events} events each, {shape.pace * 1000:g} ms apart; it used {effort.busy:.0%} of its core"
    return [
        Row(name="saturation: streams of one worker", value=rate, unit="1/s", note=note),
        Row(name="saturation: events of one worker", value=rate * shape.num_events, unit="1/s"),
        Row(name="events per CPU second of the router", value=effort.events_per_second, unit="1/s"),
    ]


def run_together(rig: Rig, num_streams: int) -> Row:
    """Many streams at once: how many of them were whole, with every event in order."""
    arrivals = [RAMP_SECONDS * index / num_streams for index in range(num_streams)]
    streams = stream_all(rig.doors(False, LONG_EVENTS, LONG_PACE), arrivals)
    whole = sum(stream.is_whole(LONG_EVENTS) for stream in streams)
    note = f"up to {most_at_once(streams)} of them at one moment; {LONG_EVENTS} events each"
    return Row(name=f"{num_streams} streams at once, whole", value=whole, unit="", limit=num_streams, note=note)


def most_at_once(streams: Sequence[Stream]) -> int:
    """The largest number of streams that were between their first and last event at one moment."""
    changes = [(stream.first, 1) for stream in streams if stream.stamps]
    changes += [(stream.last, -1) for stream in streams if stream.stamps]
    return max(itertools.accumulate((change for _, change in sorted(changes)), initial=0))
