"""The connector's own thread. No step waits for it, and it waits for no step.

```
step loop ── fetch, cancel, announce, send ──► switchboard ──► peers (HTTP), worker (socket pair), front-ends (ZeroMQ)
          ◄── inbox, after a wake-up ─────────
```
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from penstock.errors import PenstockError
from penstock.kv_transfer.lender import News
from penstock.kv_transfer.messages import TransferInput
from penstock.kv_transfer.peer import PeerView
from penstock.kv_transfer.switchboard import Happened, Order, Switchboard


class Link:
    """The thread and what crosses its border; methods are for the thread of the step loop."""

    def __init__(self, build: Callable[[Callable[[Happened], None]], Switchboard]) -> None:
        """`build` makes the switchboard, given what takes its events."""
        self._inbox: deque[Happened] = deque()
        self._switchboard = build(self._post)
        self._wake: Callable[[], None] | None = None
        self._failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._main: asyncio.Task[None] | None = None
        self._is_open = threading.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-link", daemon=True)

    def start(self, wake: Callable[[], None]) -> None:
        """Begin; `wake` is called, from the thread, when there is something to take."""
        self._wake = wake
        self._thread.start()
        self._is_open.wait()

    def close(self) -> None:
        """End the thread."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # its loop was closed just now
                self._loop.call_soon_threadsafe(self._end)
            self._thread.join()

    @property
    def has_news(self) -> bool:
        """True if `take` has something to give."""
        return bool(self._inbox) or self._failure is not None

    @property
    def views(self) -> tuple[PeerView, ...]:
        """The peers that can be asked."""
        return self._switchboard.views

    @property
    def num_pulled_bytes(self) -> int:
        """By all transfers that ended well."""
        return self._switchboard.num_pulled_bytes

    def num_announced(self, number: int) -> int:
        """Blocks of an arrival that its peer has computed."""
        return self._switchboard.num_announced.get(number, 0)

    def take(self) -> list[Happened]:
        """What happened since, in order; raises if the thread has failed."""
        if isinstance(self._failure, PenstockError):
            raise self._failure
        if self._failure is not None:
            raise RuntimeError("the connector's thread failed") from self._failure
        return [self._inbox.popleft() for _ in range(len(self._inbox))]

    def fetch(self, order: Order) -> None:
        """Fill an arrival from a peer; an `EndArrival` and a `CloseArrival` follow in any case."""
        self._loop.call_soon_threadsafe(self._switchboard.fetch, order)

    def cancel(self, number: int) -> None:
        """Nobody wants that arrival any more; it ends soon."""
        self._loop.call_soon_threadsafe(self._switchboard.cancel, number)

    def announce(self, news: Sequence[News]) -> None:
        """Tell peers, through the front-ends of their calls."""
        self._loop.call_soon_threadsafe(self._switchboard.announce, list(news))

    def send(self, message: TransferInput) -> None:
        """Tell the worker's transfer thread."""
        self._loop.call_soon_threadsafe(self._switchboard.send, message)

    def forget_client(self, client: int) -> None:
        """A front-end has died."""
        self._loop.call_soon_threadsafe(self._switchboard.forget_client, client)

    def _post(self, happened: Happened) -> None:
        self._inbox.append(happened)
        if self._wake is not None:
            self._wake()

    def _end(self) -> None:
        if self._main is not None:
            self._main.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(self._on_error)
        self._main = self._loop.create_task(self._switchboard.serve(self._is_open.set))
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # of the thread; the engine loop's top logs it and ends this life
            self._fail(error)
        finally:
            self._is_open.set()
            self._loop.close()

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception in a callback is as fatal as one in a task; one of a connection that broke is nothing."""
        error = context.get("exception")
        if error is not None and not isinstance(error, OSError):
            self._fail(error)
            self._end()

    def _fail(self, error: BaseException) -> None:
        while isinstance(error, BaseExceptionGroup):  # of a task group: one of them came first
            error = error.exceptions[0]
        self._failure = self._failure or error
        if self._wake is not None:
            self._wake()
