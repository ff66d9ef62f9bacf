from __future__ import annotations

import asyncio

import numpy as np
import pytest
import zmq

from penstock.engine.client import MESSAGES_PER_WAKE, EngineClient
from penstock.engine.messages import ClientHello, EngineDown, EngineReady, StepOutputs
from penstock.engine.notice import tell_engine_down
from penstock.wire import encode
from support.lives import build_launch, until


@pytest.fixture
def launch(tmp_path):
    return build_launch(tmp_path)


@pytest.fixture
def client(launch):
    client = EngineClient(launch, 3)
    yield client
    client.close()


@pytest.fixture
def engine(launch):
    """The engine's end: a socket that takes, and one that gives."""
    with zmq.Context() as context, context.socket(zmq.PULL) as inbox, context.socket(zmq.PUSH) as outbox:
        inbox.setsockopt(zmq.RCVTIMEO, 5000)
        outbox.setsockopt(zmq.LINGER, 0)
        inbox.bind(launch.engine_address())
        outbox.connect(launch.client_address(3))
        yield inbox, outbox


def ready(epoch: int) -> EngineReady:
    return EngineReady(epoch=epoch, num_blocks=1, block_size=1, max_model_len=1)


async def test_messages_arrive_in_order_however_many_come_at_once(client, engine):
    _, outbox = engine
    for epoch in range(3 * MESSAGES_PER_WAKE):
        outbox.send(encode(ready(epoch)))
    got = []
    client.start(asyncio.get_running_loop(), lambda message: got.append(message.epoch))
    await until(lambda: len(got) == 3 * MESSAGES_PER_WAKE)
    assert got == list(range(3 * MESSAGES_PER_WAKE))


async def test_columns_cross_the_socket_unchanged(client, engine):
    sent = StepOutputs(
        epoch=4,
        handles=np.array([1 << 40, 2], np.int64),
        token_ids=np.array([7, 8], np.int32),
        finish=np.array([0, 2], np.uint8),
        started=((2, 16),),
    )
    got = []
    client.start(asyncio.get_running_loop(), got.append)
    engine[1].send(encode(sent))
    await until(lambda: got)
    assert got[0].handles.tolist() == [1 << 40, 2]
    assert (got[0].token_ids.dtype, got[0].finish.tolist(), got[0].started) == (np.int32, [0, 2], ((2, 16),))


async def test_what_is_sent_before_there_is_an_engine_waits_for_it(launch, client):
    client.send(ClientHello(client=3))
    await asyncio.sleep(0.05)
    with zmq.Context() as context, context.socket(zmq.PULL) as inbox:
        inbox.bind(launch.engine_address())
        assert await asyncio.to_thread(inbox.poll, 5000)
        assert inbox.recv() == encode(ClientHello(client=3))


async def test_malformed_messages_are_dropped_and_counted(client, engine):
    got = []
    client.start(asyncio.get_running_loop(), got.append)
    for junk in (b"", b"\xc1", b"\x81\xa4type\xa4step", encode(ready(1))[:-1]):
        engine[1].send(junk)
    engine[1].send(encode(ready(2)))
    await until(lambda: got)
    assert [message.epoch for message in got] == [2]
    assert client.num_dropped == 4


async def test_a_receiver_that_raises_does_not_hold_up_the_messages_behind(client, engine):
    got, problems = [], []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["exception"]))

    def receive(message):
        got.append(message.epoch)
        if message.epoch == 1:
            raise RuntimeError("a defect")

    for epoch in range(1, 4):
        engine[1].send(encode(ready(epoch)))
    client.start(asyncio.get_running_loop(), receive)
    await until(lambda: got == [1, 2, 3])
    assert [str(problem) for problem in problems] == ["a defect"]


async def test_the_supervisors_notice_reaches_the_front_end(launch, client):
    got = []
    client.start(asyncio.get_running_loop(), got.append)
    await asyncio.to_thread(tell_engine_down, [launch.client_address(3)], 6)
    await until(lambda: got)
    assert got == [EngineDown(epoch=6)]
