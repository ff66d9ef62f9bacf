from __future__ import annotations

import pytest

from penstock_operator.api.parse import parse_service
from penstock_operator.cluster.events import AGAIN_SECONDS, Events
from penstock_operator.errors import ApiError
from penstock_operator.kinds import EVENT
from support.memory_api import MemoryApi

RAW = {
    "metadata": {"name": "chat", "namespace": "default", "uid": "u", "generation": 1},
    "spec": {"model": {"source": "hf://org/model"}, "decode": {}},
}


@pytest.fixture
def api():
    return MemoryApi()


def test_an_event_is_a_sentence_about_the_service(api):
    Events(api, instance="operator-1", clock=lambda: 0.0).say(parse_service(RAW), "Scaled", "two pods", action="Scale")
    (told,) = api.all(EVENT)
    assert (told["reason"], told["note"], told["type"], told["action"]) == ("Scaled", "two pods", "Normal", "Scale")
    assert told["regarding"]["uid"] == "u"
    assert told["metadata"]["namespace"] == "default"
    assert told["reportingInstance"] == "operator-1"


def test_the_same_sentence_is_not_said_again_for_a_while(api):
    now = [0.0]
    events = Events(api, instance="me", clock=lambda: now[0])
    for _ in range(3):
        events.say(parse_service(RAW), "Stalled", "no room", action="Stalled", is_warning=True)
    events.say(parse_service(RAW), "Stalled", "no image", action="Stalled", is_warning=True)
    assert [one["note"] for one in api.all(EVENT)] == ["no room", "no image"]
    now[0] = AGAIN_SECONDS + 1
    events.say(parse_service(RAW), "Stalled", "no room", action="Stalled", is_warning=True)
    assert len(api.all(EVENT)) == 3


def test_a_long_note_is_cut_to_what_the_api_takes_and_one_that_is_refused_hurts_nobody(api):
    events = Events(api, instance="me", clock=lambda: 0.0)
    events.say(parse_service(RAW), "Long", "ä" * 5000, action="Tell")
    assert len(api.all(EVENT)[0]["note"].encode()) <= 1024
    api.refuse = lambda verb, kind, name: ApiError(403, "events is forbidden")
    events.say(parse_service(RAW), "Refused", "no", action="Tell")
    assert len(api.all(EVENT)) == 1
