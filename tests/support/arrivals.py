"""Requests that arrive at a pace, whether or not those before them have been answered."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from support.fleet_client import ask
from support.fleet_requests import SENTENCE, STREAM
from support.history import Asked, History

LOOK_SECONDS = 0.05
PAGE_TOKENS = 560
MOST = 24  # that are under way at a time: what is waited for must come to an end


class Arrivals:
    """One client for each request. `pace` may be changed at any time, by any thread."""

    def __init__(self, url: str, build: Callable[[], Asked], history: History) -> None:
        """`build`: the next request."""
        self.pace = 0.0  # requests per second
        self._url, self._build, self._history = url, build, history
        self._is_over = threading.Event()

    def end(self) -> None:
        """No more come; those that are under way are heard out."""
        self._is_over.set()

    async def run(self) -> None:
        """Until the end."""
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []
        due, last = 0.0, loop.time()  # requests that should have come and did not
        while not self._is_over.is_set():
            await asyncio.sleep(LOOK_SECONDS)
            due, last = due + self.pace * (loop.time() - last), loop.time()
            due = min(due, float(MOST - sum(not task.done() for task in tasks)))
            while due >= 1:
                due -= 1
                tasks.append(asyncio.create_task(self._ask(self._build())))
        await asyncio.gather(*tasks)

    async def _ask(self, asked: Asked) -> None:
        self._history.add(await ask(self._url, asked))


@contextmanager
def arriving(url: str, build: Callable[[], Asked], history: History) -> Iterator[Arrivals]:
    """Requests come meanwhile; at the end all are heard out, and each must have got what it is owed."""
    arrivals = Arrivals(url, build, history)
    thread = threading.Thread(target=lambda: asyncio.run(arrivals.run()))
    thread.start()
    try:
        yield arrivals
    finally:
        arrivals.end()
        thread.join()
    history.check()


def new_prompt(number: int) -> Asked:
    """`PAGE_TOKENS` that nobody has asked before, and next to nothing to say to them."""
    prompt = f"Notes, page {number}. {SENTENCE * 36}What is on page {number}:"
    return Asked(name=f"page {number}", body=STREAM | {"prompt": prompt, "max_tokens": 4, "ignore_eos": True})
