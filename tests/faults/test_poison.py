"""Requests that kill, and clocks that jump."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from support.fleet_client import ask
from support.fleet_requests import STREAM, all_kinds, long_prompts, nothing, while_asked
from support.fleet_service import Service, running
from support.history import Answer, Asked
from support.serving import environment

pytestmark = pytest.mark.faults
SABOTEUR = Path(__file__).parent / "saboteur"
POISON = (1013, 17, 1013, 19, 1013)


def sabotaged(**settings: str) -> dict[str, str]:
    return settings | {"PYTHONPATH": os.pathsep.join([str(SABOTEUR), environment()["PYTHONPATH"]])}


def num_restarts(service: Service) -> int:
    return int(sum(pod.metrics()["penstock_engine_restarts_total"] for pod in service.pods))


@pytest.mark.parametrize("length", [40, 400], ids=["short", "prefilled elsewhere"])
async def test_a_poison_request_kills_two_engines_and_then_ends(tmp_path, length):
    settings = sabotaged(POISON=",".join(map(str, POISON)))
    with running(tmp_path, settings=settings) as service:
        prompt = [*POISON, *range(2000, 2000 + length)]
        poison = Asked(name="poison", body=STREAM | {"prompt": prompt, "max_tokens": 16}, key=service.new_key())
        heard = await ask(service.url, poison)
        answer = Answer(heard)
        assert heard.status >= 500 or answer.errors, [event.data for event in heard.events]
        await service.settle()
        assert 1 <= num_restarts(service) <= 2
        await while_asked(service, long_prompts(2, sentences=24, max_tokens=16), nothing)
        assert num_restarts(service) <= 2
        assert not any(pod.program.exits for pod in service.pods)


async def test_clocks_that_jump_by_hours_change_nothing(tmp_path):
    with running(tmp_path, settings=sabotaged(CLOCK="1")) as service:
        before = service.transfers("count")
        requests = [*all_kinds(40), *long_prompts(4, sentences=24, max_tokens=24)]
        for _ in range(3):
            again = [dataclasses.replace(asked, name=asked.name) for asked in requests]
            await while_asked(service, again, nothing)
        assert service.transfers("count") > before
        assert not service.transfers("failed")
        assert num_restarts(service) == 0
