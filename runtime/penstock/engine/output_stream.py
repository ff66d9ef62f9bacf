"""What a submitted request produces, for whoever waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from penstock.core.request import Request
from penstock.engine.output import OutputDelta


class OutputStream:
    """What some requests produce: an asynchronous iterator over lists of deltas, each list all that piled up.

    It ends when every choice has finished. Whoever stops earlier calls `aclose`, which aborts the rest.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        abort: Callable[[Sequence[int]], None],
        *,
        num_deaths: int = 0,
        on_death: Callable[[], None] | None = None,
    ) -> None:
        self.num_deaths = num_deaths  # engines that died with this in flight
        self.is_told = False  # to the engine of the present epoch
        self._on_death = on_death
        self._open = {request.handle: None for request in requests}  # in order
        self._abort = abort
        self._pending: list[OutputDelta] = []
        self._waiter: asyncio.Future[None] | None = None

    @property
    def open_handles(self) -> tuple[int, ...]:
        """Handles of the choices that have not finished."""
        return tuple(self._open)

    def __aiter__(self) -> OutputStream:
        return self

    async def __anext__(self) -> list[OutputDelta]:
        """The next deltas, in order over all choices; waits for at least one."""
        while not self._pending:
            if not self._open:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                await self.aclose()
                raise
            finally:
                self._waiter = None
        pending, self._pending = self._pending, []
        return pending

    async def aclose(self) -> None:
        """Abort the choices that have not finished, and end the iteration. Idempotent."""
        handles, self._open = self.open_handles, {}
        if handles:
            self._abort(handles)
        self._wake()

    def count_death(self) -> None:
        """An engine died with this in flight."""
        self.num_deaths += 1
        if self._on_death is not None:
            self._on_death()

    def push(self, delta: OutputDelta) -> None:
        """Add a delta for the iterator."""
        self._pending.append(delta)
        self._wake()

    def close_handle(self, handle: int) -> None:
        """This choice has finished; its last delta is pushed next."""
        del self._open[handle]

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
