"""Runs worlds. In `tests/`: `python -m simulation.run SEED` tells one of them event by event, and
`python -m simulation.run FIRST COUNT` runs many."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from simulation import events, faults
from simulation.world import Settings, World

MAX_CALM = 3000  # events in which a world without faults must come to rest


class Broken(Exception):
    """A world whose invariants do not hold; says how to see it again."""


def run(seed: int, settings: Settings, tell: Callable[[str], None] | None = None) -> World:
    """From the first request until all is over; raises `Broken`."""
    world = World(seed, settings)
    try:
        go_through(world, tell)
    except Exception as error:
        raise Broken(f"seed {seed}: {error!r}; see: cd tests && python -m simulation.run {seed}") from error
    return world


def go_through(world: World, tell: Callable[[str], None] | None) -> None:
    random = world.random
    for _ in range(world.settings.num_events):
        found = faults.possible(world) if random.random() < world.fault_rate else events.possible(world)
        happen(world, random.choice(found), tell)
    for pod in (world.decode, world.prefill):
        pod.is_stopped = False
    for _ in range(MAX_CALM):
        if world.is_at_rest:
            break
        happen(world, random.choice(events.possible(world)), tell)
    assert world.is_at_rest, f"no rest after {MAX_CALM} events without faults: {world.state()}"
    world.check_rest()


def happen(world: World, event: events.Event, tell: Callable[[str], None] | None) -> None:
    act, target = event
    if tell is not None:
        tell(f"{world.now:7.1f} {act.__name__} {name_of(target)}")
    act(world, target)
    world.check()


def name_of(target: object) -> str:
    """Something short that is the same in every run."""
    number = getattr(target, "number", None) or getattr(getattr(target, "pull", None), "pull", None)
    if number is not None:
        return f"{type(target).__name__} {number}"
    return str(target) if isinstance(target, int | float | None) else type(target).__name__


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    first, *count = map(int, sys.argv[1:])
    if count:
        for seed in range(first, first + count[0]):
            run(seed, Settings())
    else:
        run(first, Settings(), print)
