"""The history checker itself: it must find each kind of wrong."""

from __future__ import annotations

import asyncio
import json

import pytest

from support.fleet_client import ask
from support.history import Asked, Event, Heard, History, pod_problems

STREAM = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": 1}


def part(text: str, *, index: int = 0, end: str | None = None, name: str = "a", value: float = -1.0) -> dict:
    logprobs = {"tokens": [text], "token_logprobs": [value]}
    choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": end}
    return {"id": name, "created": 1, "model": "m", "choices": [choice]}


def usage(count: int) -> dict:
    return {"id": "a", "created": 1, "model": "m", "choices": [], "usage": {"completion_tokens": count}}


GOOD = [part("one"), part(" two"), part(" three", end="length"), usage(3), "[DONE]"]
ERROR = {"error": {"message": "the engine died twice"}}


def heard(events: list, asked: Asked | None = None, **changes) -> Heard:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    settings = {"status": 200, "is_whole": True, "ended": 2.0} | changes
    asked = asked or Asked(name="r", body=STREAM)
    return Heard(asked=asked, began=1.0, events=[Event(at=1.5, data=text) for text in texts], **settings)


def problems(events: list, asked: Asked | None = None, **changes) -> str:
    history = History()
    history.refer(heard(GOOD))
    history.add(heard(events, asked, **changes))
    return "\n".join(history.problems())


def test_a_run_in_order_has_no_problems():
    assert problems(GOOD) == ""


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        ([*GOOD, "[DONE]"], "an event after the end"),
        (GOOD[:-1], "0 terminal events"),
        ([GOOD[0], *GOOD[2:]], "text differs at character"),
        ([GOOD[0], *GOOD], "text differs at character"),
        ([GOOD[1], GOOD[0], *GOOD[2:]], "text differs at character 0"),
        ([*GOOD[:3], usage(4), "[DONE]"], "usage says 4 tokens"),
        ([*GOOD[:3], usage(3), usage(2), "[DONE]"], "usage fell"),
        ([*GOOD[:3], "[DONE]"], "no usage"),
        ([*GOOD[:2], part(" three"), usage(3), "[DONE]"], "choice 0 ended 0 times"),
        ([*GOOD[:2], part(" three", end="stop"), *GOOD[3:]], "not ['length']"),
        ([*GOOD[:3], part("", end="length"), *GOOD[3:]], "went on after its end"),
        ([GOOD[0], part(" two", value=-1.5), *GOOD[2:]], "log-probability -1.5"),
        ([GOOD[0], part(" two", name="b"), *GOOD[2:]], "the answer changed its name"),
        ([*GOOD[:3], part("x", index=1, end="length"), usage(4), "[DONE]"], "choices [0, 1]"),
        ([*GOOD[:2], ERROR], "the engine died twice"),
        ([*GOOD[:2], ERROR, GOOD[2], *GOOD[3:]], "an event after an error"),
        ([*GOOD[:2], '{"id": "a", "cho', *GOOD[2:]], "no JSON"),
    ],
)
def test_each_kind_of_wrong_is_found(events, complaint):
    assert complaint in problems(events)


def test_an_answer_that_breaks_off_is_found():
    assert "broke off after 2 events" in problems(GOOD[:2], is_whole=False)
    assert "closed without" in problems([], status=0, trouble="closed without an answer")


def test_errors_and_refusals_are_answers_only_where_they_are_expected():
    allowed = Asked(name="r", body=STREAM, may_end_badly=True, may_be_refused=True)
    assert problems([*GOOD[:2], ERROR], allowed) == ""
    assert "text differs" in problems([GOOD[1], ERROR], allowed)
    assert problems([ERROR], allowed, status=503, headers={"retry-after": "1"}) == ""
    assert "without Retry-After" in problems([ERROR], allowed, status=503)
    assert "status 503" in problems([ERROR], status=503, headers={"retry-after": "1"})


def test_a_client_that_left_heard_the_beginning_of_its_text():
    leaver = Asked(name="r", body=STREAM, leaves_after=2)
    assert problems(GOOD[:2], leaver, did_leave=True, is_whole=False) == ""
    assert "text differs" in problems(GOOD[1:3], leaver, did_leave=True, is_whole=False)


def test_words_of_another_tenant_are_found():
    history = History()
    history.add(heard(GOOD, Asked(name="mine", body=STREAM, marker="heron")))
    history.add(
        heard([part("the osprey", end="length"), usage(1), "[DONE]"], Asked(name="b", body=STREAM, marker="crane"))
    )
    assert history.problems() == []
    history.add(heard([part("a heron", end="length"), usage(1), "[DONE]"], Asked(name="c", body=STREAM, marker="wren")))
    assert "another tenant's words: ['heron']" in history.problems()[0]


def test_what_is_left_behind_in_a_pod_is_found():
    load = {"name": "d", "role": "decode", "kv_usage": 0, "leases": 0, "running": 0, "waiting": 0}
    load["transfers"] = {"failed": 1, "fallbacks": 1}
    sound = {"penstock_integrity_failures_total": 0.0}
    assert pod_problems([load], [sound]) == []
    assert "still has {'leases': 1}" in pod_problems([load | {"leases": 1}], [sound])[0]
    assert "2 failed" in pod_problems([load | {"transfers": {"failed": 2, "fallbacks": 1}}], [sound])[0]
    assert "integrity" in pod_problems([load], [{"penstock_integrity_failures_total": 1.0}])[0]


async def test_the_client_reads_a_stream_from_raw_bytes_in_any_pieces():
    events = "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in GOOD).encode()
    pieces = [events[:7], events[7:300], events[300:]]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int((await reader.readuntil(b"\r\n\r\n")).split(b"Content-Length: ")[1].split()[0])
        name = json.loads(await reader.readexactly(size))["user"]
        writer.write(whole if name == "whole" else whole[:-5] if name == "no end" else whole[:500])
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        got = {user: await ask(url, Asked(name="r", body=STREAM | {"user": user})) for user in ("whole", "no end", "x")}
    history = History()
    history.refer(got["whole"])
    history.add(got["whole"])
    assert history.problems() == []
    history.add(got["no end"])
    history.add(got["x"])
    assert [("broke off" in each) for each in history.problems()] == [True, True]
