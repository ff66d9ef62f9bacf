"""kopf as a thin shell: it watches and tells the feed, nothing else.

Only `on.event` is used: kopf's other handlers and its timers write finalizers and annotations into people's objects.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from typing import Any

import kopf

from penstock.logs import event
from penstock_operator.cluster.feed import Feed
from penstock_operator.cluster.watch_settings import build_settings
from penstock_operator.kinds import Kind

AGAIN_SECONDS = 5.0  # after kopf has failed

_log = logging.getLogger(__name__)


class Shell:
    """Runs in the main thread, until SIGTERM or SIGINT."""

    def __init__(self, feed: Feed, *, namespaces: Sequence[str]) -> None:
        """`namespaces`: to watch; none means all."""
        self._feed, self._namespaces = feed, tuple(namespaces)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._restart = asyncio.Event()
        self._is_stopping = False
        self._was_told = False

    @property
    def was_told(self) -> bool:
        """True if a signal ended it."""
        return self._was_told

    def restart(self) -> None:
        """Watch anew, because there are other kinds now; from any thread."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._restart.set)

    def end(self) -> None:
        """Come to an end; from any thread."""
        self._is_stopping = True
        self.restart()

    async def run(self) -> None:
        """Watch until a signal comes; whatever ends kopf before that is logged, and kopf started again."""
        self._loop = asyncio.get_running_loop()
        self._catch_signals()
        while not self._feed.is_open and not self._is_stopping:
            await asyncio.sleep(0.1)
        while not self._is_stopping:
            self._restart.clear()
            try:
                await self._watch(self._feed.kinds)
            except Exception as error:  # the top of the watches: the process has other things to do than to end
                event(_log, "watches.failed", level=logging.ERROR, why=repr(error))
                await asyncio.sleep(AGAIN_SECONDS)
        self._loop = None

    async def _watch(self, kinds: Sequence[Kind]) -> None:
        others = asyncio.all_tasks()
        tasks = await kopf.spawn_tasks(
            registry=build_registry(kinds, self._feed),
            settings=build_settings(kinds),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._restart,
        )
        self._catch_signals()  # in place of kopf's, which end with its tasks
        await kopf.run_tasks(tasks, ignored=others)

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop, number)

    def _stop(self, number: signal.Signals) -> None:
        event(_log, "signal.received", signal=number.name)
        self._was_told = True
        self.end()


def build_registry(kinds: Sequence[Kind], feed: Feed) -> kopf.OperatorRegistry:
    """One handler of events for each kind."""
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(kopf.login_via_client)
    for kind in kinds:
        version = kind.api_version.rpartition("/")[2]
        kopf.on.event(kind.group, version, kind.plural, registry=registry, id=kind.plural)(build_handler(kind, feed))
    return registry


def build_handler(kind: Kind, feed: Feed) -> Callable[..., Any]:
    """What kopf calls for each event of a kind. It returns nothing: kopf would write that into the status."""

    async def seen(event: dict[str, Any], **_: object) -> None:
        feed.tell(kind, event["type"], event["object"])

    return seen
