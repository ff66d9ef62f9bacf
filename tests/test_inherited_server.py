from __future__ import annotations

import asyncio
import socket

import uvicorn
import uvloop

from penstock.inherited_server import ACCEPTS, InheritedServer

NUM_TURNS = 5  # one accepts, one calls `connection_made`, and some to spare; fewer than there are connections


async def app(scope, receive, send):
    raise AssertionError("nobody asks anything")


async def count_taken(listener: socket.socket) -> int:
    """How many of the connections that wait are taken within a few turns of the loop."""
    server = InheritedServer(uvicorn.Config(app, loop="uvloop", lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(ACCEPTS)]
    for _ in range(NUM_TURNS):
        await asyncio.sleep(0)
    taken = len(server.server_state.connections)
    for client in clients:
        client.close()
    server.should_exit = True
    await serving
    return taken


def test_connections_that_wait_are_taken_together_however_long_a_turn_of_the_loop_takes():
    with (
        socket.create_server(("127.0.0.1", 0), backlog=ACCEPTS) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        assert runner.run(count_taken(listener)) == ACCEPTS
